"""Runs that were: read back from the receipts and attempts, the only record there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from batch.errors import UsageError
from batch.execution import attempts
from batch.execution.publish import entries
from batch.storage import join, storage_for


def list_runs(
    root: str,
    *,
    job: str | None = None,
    state: str | None = None,
    period: str | None = None,
    trigger: str | None = None,
) -> list[dict[str, Any]]:
    """One line per run, newest first, failures included; each filter is optional."""
    found = []
    for name in [job] if job else _jobs(root):
        found += list(_runs_of(root, name))
    wanted = {"state": state, "subject": period, "trigger": trigger}
    chosen = [one for one in found if all(value is None or one[key] == value for key, value in wanted.items())]
    return sorted(chosen, key=lambda one: str(one["started_at"]), reverse=True)


def find_run(root: str, run: str) -> dict[str, Any]:
    """The receipt of a run: by id, by a unique prefix of one, or ``JOB@latest``. Raises `UsageError`."""
    if run.endswith("@latest"):
        return _latest(root, run.removesuffix("@latest"))
    receipts = {receipt["run_id"]: receipt for receipt in _all_receipts(root)}
    if run in receipts:
        return receipts[run]
    matching = sorted(one for one in receipts if one.startswith(run))
    if len(matching) != 1:
        what = f"{len(matching)} runs begin with '{run}'" if matching else f"there is no run '{run}' under {root}"
        hint = f"they are: {', '.join(matching[:5])}" if matching else "batch-predict runs lists them"
        raise UsageError(what, hint=hint)
    return receipts[matching[0]]


def _latest(root: str, job: str) -> dict[str, Any]:
    """The newest period's run; within it the one that its output's register names last."""
    done = list(_receipts(root, job))
    if not done:
        raise UsageError(f"job '{job}' has no completed run under {root}", hint="batch-predict runs lists all runs")
    newest = max(receipt["subject"] for receipt in done)
    candidates = {receipt["run_id"]: receipt for receipt in done if receipt["subject"] == newest}
    any_one = max(candidates.values(), key=lambda receipt: str(receipt["timing"]["finished_at"]))
    for output in any_one["output"]:
        for entry in reversed(entries(root, output["uri"])):
            if entry.document["run_id"] in candidates:
                return candidates[entry.document["run_id"]]
    return any_one


def _jobs(root: str) -> list[str]:
    folder = join(root, "attempts", "")
    return sorted({info.uri[len(folder) :].split("/", 1)[0] for info in storage_for(folder).list(folder)})


def _receipts(root: str, job: str) -> Iterator[dict[str, Any]]:
    folder = join(root, "done", job, "")
    storage = storage_for(folder)
    for info in storage.list(folder):
        body = None if info.uri.endswith("/parked.json") else storage.get(info.uri)
        if body is not None:
            yield json.loads(body)


def _all_receipts(root: str) -> Iterator[dict[str, Any]]:
    """Of every run: the completed one's receipt, else its last attempt's."""
    for job in _jobs(root):
        done = {receipt["run_id"]: receipt for receipt in _receipts(root, job)}
        yield from done.values()
        for run, tries in attempts.of_job(root, job).items():
            ended = [one["end"] for one in tries if one["end"]]
            if run not in done and ended and ended[-1]["receipt"]:
                yield ended[-1]["receipt"]


def _runs_of(root: str, job: str) -> Iterator[dict[str, Any]]:
    done = {receipt["run_id"]: receipt for receipt in _receipts(root, job)}
    for run, tries in attempts.of_job(root, job).items():
        last = tries[-1]
        receipt = done.get(run) or (last["end"] or {}).get("receipt")
        state = done[run]["state"] if run in done else (last["end"] or {"state": "silent"})["state"]
        yield _line(run, job, state, receipt, last)


def _line(run: str, job: str, state: str, receipt: dict[str, Any] | None, last: dict[str, Any]) -> dict[str, Any]:
    models = receipt["models"] if receipt else []
    return {
        "run_id": run,
        "job": job,
        "state": state,
        "subject": last["start"].get("subject"),
        "trigger": receipt["trigger"] if receipt else last["start"].get("trigger"),
        "started_at": receipt["timing"]["started_at"] if receipt else last["start"].get("at"),
        "seconds": receipt["timing"]["seconds"] if receipt else None,
        "rows": receipt["rows"] if receipt else None,
        "model": ", ".join(f"{one['name']}/{one['version']}" for one in models),
        "error": None if state.startswith("completed") else (last["end"] or {}).get("error"),
    }
