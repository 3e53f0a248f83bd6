"""Receipts, runs and models as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHOWN = 15
"""Comparisons that ``monitor check`` shows."""


def summary(receipt: dict[str, Any], *, already_done: bool = False) -> str:
    """A receipt as a few aligned lines."""
    rows, seconds = receipt["rows"], receipt["timing"]["seconds"] or 0.0
    done = " (already done)" if already_done else ""
    lines = [
        ("state", receipt["state"] + done),
        ("run", receipt["run_id"]),
        ("rows", f"{rows['read']:,} read = {rows['predicted']:,} predicted + {rows['rejected']:,} rejected"),
        *(("model", _scored(model)) for model in receipt["models"]),
        *(("output", f"{output['uri']}  {output['size_bytes']:,} bytes") for output in receipt["output"]),
        *(("rejects", f"{one['uri']}  {_codes(one['by_code'])}") for one in receipt["rejects"] if one["rows"]),
        *drift_lines(receipt.get("drift")),
        ("time", f"{seconds:.2f} s, {rows['read'] / seconds:,.0f} rows/s" if seconds else "0 s"),
    ]
    if error := receipt.get("error"):
        lines.append(("error", error["message"]))
    return "\n".join(f"{label:<8} {text}" for label, text in lines)


def drift_lines(drift: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The state of the drift with the columns that are over a limit; nothing where it is not known."""
    if not drift or drift["state"] == "unknown":
        return []
    over = [one for one in drift["columns"] if one["state"] != "ok"]
    worst = [f"{one['column']} {one['psi']:.3g} against {one['against']}" for one in over[:3]]
    more = f" and {len(over) - 3} more" if len(over) > 3 else ""
    told = f": PSI of {', '.join(worst)}{more}" if worst else f", {drift['compared']} comparisons"
    return [("drift", f"{drift['state']}{told}")]


def monitor_text(found: dict[str, Any]) -> str:
    """What ``monitor check`` found: the state, why, and the largest shifts."""
    drift = found["drift"]
    lines = [f"{found['job']} {found['subject']}: {found['state']} (run {found['run_id']})", *found["sentences"]]
    head = ("COLUMN", "ROLE", "AGAINST", "PSI", "WARN", "ALERT", "BY CHANCE", "STATE")
    cells = [
        [
            *(str(one[key]) for key in ("column", "role", "against")),
            *(f"{one[key]:.3g}" for key in ("psi", "limit_warn", "limit_alert", "chance")),
            one["state"],
        ]
        for one in drift["columns"][:SHOWN]
    ]
    if cells:
        lines += ["", table(head, cells, right=(3, 4, 5, 6))]
    if len(drift["columns"]) > SHOWN:
        lines.append(f"and {drift['compared'] - SHOWN} comparisons with less of a shift: --json")
    return "\n".join(lines)


def _scored(model: dict[str, Any]) -> str:
    line = f"{_model(model)}  {model['rows']:,} rows"
    return f"{line}; of others: {model['error']}" if model.get("error") else line


def _model(model: dict[str, Any]) -> str:
    name = f"{model['name']}/{model['version']}" if model.get("name") else model["uri_given"]
    role = f"{model['variant']}, shadow" if model.get("mode") == "shadow" else model.get("variant")
    return f"{name} ({role})" if role else str(name)


def _codes(by_code: dict[str, int]) -> str:
    return ", ".join(f"{rows:,} {code}" for code, rows in sorted(by_code.items()))


def readiness(found: dict[str, Any]) -> str:
    """What `check` says of a run that would not be refused: its cost, and what of the first rows would be rejected."""
    estimate, sample = found["estimate"], found["sample"]
    if estimate is None:
        return "nothing to do, the run is done"
    line = (
        f"ready to run (about {estimate['rows']:,} rows, {estimate['chunks']:,} chunks, about {estimate['seconds']:.0f} s, "
        f"{estimate['memory_bytes']:,} bytes of memory)"
    )
    if sample and sample["rejected"]:
        line += f"\n{sample['rejected']:,} of the first {sample['rows']:,} rows would be rejected; {sample['first']}"
    return "\n".join([line, *(f"shadow '{name}' would score nothing: {why}" for name, why in found["shadows"].items())])


def runs_table(runs: Sequence[dict[str, Any]]) -> str:
    """One line per run."""
    head = ("RUN", "JOB", "STATE", "SUBJECT", "TRIGGER", "STARTED", "SECONDS", "READ", "PREDICTED", "REJECTED", "MODEL")
    return table(head, [_run_cells(run) for run in runs], right=(6, 7, 8, 9)) if runs else "no runs"


def _run_cells(run: dict[str, Any]) -> list[str]:
    rows, seconds = run.get("rows") or {}, run.get("seconds")
    return [
        *(str(run.get(key) or "-") for key in ("run_id", "job", "state", "subject", "trigger", "started_at")),
        "-" if seconds is None else f"{seconds:.1f}",
        *("-" if rows.get(key) is None else f"{rows[key]:,}" for key in ("read", "predicted", "rejected")),
        str(run.get("model") or "-"),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns; those in `right` (0-based) align to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *rows)
    )


def model_text(card: dict[str, Any]) -> str:
    """A registered version: what it takes, what it gives, and what its aliases were."""
    lines = [f"models:/{card['name']}/{card['version']}  {card['created_at']}", f"uri      {card['uri']}"]
    lines += [f"metric   {name} = {value:.6g}" for name, value in card.get("metrics", {}).items()]
    lines += [f"column   {column['name']}: {column['type']}{_required(column)}" for column in card["signature"]]
    for alias, entries in card["alias_history"].items():
        lines += [
            f"alias    {alias} -> {entry['version']}  {entry['action']} {entry['at']} {entry['by']}".rstrip()
            for entry in entries
        ]
    return "\n".join(lines)


def _required(column: dict[str, Any]) -> str:
    return "" if column.get("required", True) else ", may be null"
