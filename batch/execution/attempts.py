"""How each attempt at a run began and ended: two small create-once records per attempt."""

from __future__ import annotations

import json
from typing import Any

from batch.execution.identity import canonical
from batch.execution.receipt import now
from batch.storage import join, storage_for


def begin(root: str, job: str, run: str, facts: dict[str, Any]) -> str:
    """Record the start of an attempt under the next free number; gives the URI stem of its two records."""
    folder = join(root, "attempts", job)
    storage = storage_for(folder)
    number = 1 + sum(info.uri.endswith(".start.json") for info in storage.list(join(folder, f"{run}.")))
    while True:
        stem = join(folder, f"{run}.{number:08d}")
        if storage.create(f"{stem}.start.json", canonical({"format": 1, "run_id": run, "at": now(), **facts})):
            return stem
        number += 1


def end(stem: str, state: str, exit_code: int, receipt: dict[str, Any] | None, error: dict[str, str] | None) -> None:
    """Record how the attempt ended; a record that is there already stays."""
    document = {"format": 1, "at": now(), "state": state, "exit_code": exit_code, "error": error, "receipt": receipt}
    storage_for(stem).create(f"{stem}.end.json", canonical(document))


def of_job(root: str, job: str) -> dict[str, list[dict[str, Any]]]:
    """All attempts at the runs of a job: run id -> attempts in order, each ``{"start": …, "end": … | None}``."""
    folder = join(root, "attempts", job, "")
    storage = storage_for(folder)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for info in storage.list(folder):
        run, number, kind, _ = info.uri[len(folder) :].rsplit(".", 3)
        body = storage.get(info.uri)
        if body is not None:
            found.setdefault(run, {}).setdefault(number, {"start": {}, "end": None})[kind] = json.loads(body)
    return {run: [attempt for _, attempt in sorted(numbers.items())] for run, numbers in found.items()}
