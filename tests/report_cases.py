"""Weeks of a job as runs leave them under a root: receipts, summaries and evaluations in their stored form, without scoring anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import batch
from batch.execution import records, register
from batch.job import Job
from batch.period import last_complete, parse_period
from batch.storage import storage_for

ZONE = "Europe/Berlin"
PRODUCTS = {
    "Harbor Lamp": (960, 0.7),
    "Juniper Chair": (840, 0.62),
    "Kestrel Bike": (320, 0.78),
    "Lumen Speaker": (760, 0.49),
}
EDGES = [round(0.1 * step, 1) for step in range(1, 10)]


@dataclass
class Groups:
    """The groups of one week: (rows, mean) by name."""

    of: Mapping[str | None, tuple[int, float]]
    sd: float = 0.2
    too_many: bool = False
    kind: str = "share"
    """share, mean (of a regressor), or classes (three of them)."""

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.of.values())

    def labels(self, rows: int, mean: float) -> dict[str, int]:
        if self.kind == "mean":
            return {}
        if self.kind == "classes":
            first = round(rows * mean)
            return {"basic": first, "plus": (rows - first) // 2, "pro": rows - first - (rows - first) // 2}
        return {"0": rows - round(rows * mean), "1": round(rows * mean)}

    def profile(self, column: str = "product") -> dict[str, Any]:
        """`summary.json`'s ``profile``."""
        rows = self.rows
        mean = sum(rows * mean for rows, mean in self.of.values()) / rows if rows else None
        column_of = {"mean": "prediction", "classes": "probability_basic", "share": "probability"}
        score: dict[str, Any] = {"column": column_of[self.kind], "rows": rows, "edges": EDGES}
        score |= {"counts": [rows] + [0] * 9, "mean": mean, "sd": self.sd if rows else None}
        kept = {} if self.too_many else self.of
        found = [
            {
                "group": name,
                "rows": count,
                "mean": value,
                "sd": self.sd if count > 1 else None,
                "counts": [count] + [0] * 9,
                "labels": self.labels(count, value),
            }
            for name, (count, value) in sorted(kept.items(), key=lambda one: (one[0] is None, one[0] or ""))
        ]
        labels = self.labels(rows, mean or 0.0)
        return {
            "reference": {},
            "columns": {},
            "scores": {"champion": score},
            "labels": {"champion": labels} if labels else {},
            "classes": sorted(labels),
            "groups": {"column": column, "too_many": self.too_many, "groups": found},
        }


@dataclass
class Weeks:
    """A root with a job in it, to which weeks are added."""

    root: str
    folder: Path
    more: str = ""
    """Further lines of the job file."""
    source: str = "in/{period}.csv"
    output: str = "out/{period}/satisfaction.csv"
    group_by: str = "product"
    report: str = ""
    """Further lines of its ``[report]``."""
    schedule: str = f'[schedule]\ncron = "0 6 * * MON"\ntimezone = "{ZONE}"\nperiod = "week"\n'
    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    def job(self) -> Job:
        path = self.folder / "weekly.toml"
        path.write_text(
            f'name = "weekly-satisfaction"\nroot = "{self.root}"\nmodel = "models:/satisfaction@champion"\n'
            f'[input]\nuri = "{self.root}/{self.source}"\n[output]\nuri = "{self.root}/{self.output}"\n'
            f'{self.schedule}{self.more}\n[report]\ngroup_by = "{self.group_by}"\n{self.report}'
        )
        return batch.load_job(str(path))

    def add(
        self,
        week: str,
        groups: Groups | None,
        *,
        read: int | None = None,
        rejected: Mapping[str, int] | None = None,
        version: int = 1,
        began: timedelta = timedelta(hours=6, minutes=1),
        suffix: str = "",
        profile: bool = True,
        drift: dict[str, Any] | None = None,
        files: tuple[str, ...] = ("out/{period}/satisfaction.csv",),
        **receipt: Any,
    ) -> dict[str, Any]:
        """A completed run of a week; gives its receipt."""
        about = parse_period(week, "week", ZONE)
        run_id = f"{abs(hash_of(week)):016x}{suffix}"
        codes = dict(rejected or {})
        predicted = groups.rows if groups else read or 0
        rows = {"read": predicted + sum(codes.values()), "predicted": predicted, "rejected": sum(codes.values())}
        started = about.end + began
        outputs = [f"{self.root}/{name.replace('{period}', week)}" for name in files]
        model = {
            "uri_given": "models:/satisfaction@champion",
            "name": "satisfaction",
            "version": version,
            "sha256": "ab" * 32,
        }
        document = {
            "format": 1,
            "run_id": run_id,
            "job": "weekly-satisfaction",
            "state": "completed_with_rejects" if codes else "completed",
            "trigger": "cron",
            "subject": week,
            "period": {"name": week, "start": about.start.isoformat(), "end": about.end.isoformat()},
            "retry_of": None,
            "input": [{"uri": f"{self.root}/in/{week}.csv", "etag": "e", "version_id": None, "size_bytes": 123_456, "rows": rows["read"]}],
            "models": [{"variant": "champion", "mode": "split", "weight": 1.0, **model, "rows": predicted}],
            "output": [{"uri": uri, "role": "predictions", "size_bytes": 99, "sha256": "cd" * 32, "etag": "e", "rows": predicted, "columns": []} for uri in outputs],
            "rejects": [{"uri": outputs[0].replace(".csv", ".rejects.csv"), "rows": rows["rejected"], "complete": True, "by_code": codes, "output": outputs[0]}] if codes else [],
            "rows": rows,
            "timing": {"started_at": utc(started), "finished_at": utc(started + timedelta(seconds=9)), "seconds": 9.0, "phases": {}},
            "drift": drift or {"state": "ok", "columns": [], "rows": predicted, "reason": "", "previous": None},
            "environment": {"batch-predict": "0.1.0"},
            **receipt,
        }  # fmt: skip
        records.create(f"{self.root}/done/{document['job']}/{document['subject']}/{run_id}.json", document)
        summary = {
            "format": 1,
            "run_id": run_id,
            "rows": rows,
            "profile": groups.profile(self.group_by) if groups and profile else None,
        }
        records.create(f"{self.root}/runs/weekly-satisfaction/{run_id}/summary.json", summary)
        for uri in outputs:
            register.append(
                self.root,
                uri,
                {"job": document["job"], "run_id": run_id, "subject": week, "commit": run_id, "at": utc(started)},
            )
            storage_for(uri).replace(uri, [b"id\n"], 3)
        self.made[week] = document
        return document

    def evaluate(self, period: str, predicted: float, observed: float, *, verdict: str = "predicts too much", groups: Mapping[str, tuple[int, float, float]] | None = None, rows: int = 2_800) -> None:  # fmt: skip
        """Labels that arrived later: `groups` as (rows, predicted, observed)."""
        run_id = self.made[period]["run_id"]
        calibration = {"predicted": predicted, "observed": observed, "interval": [observed - predicted - 0.01, observed - predicted + 0.01], "verdict": verdict, "bins": []}  # fmt: skip
        auc = {"value": 0.831, "interval": [0.81, 0.85], "registered": 0.89, "verdict": "below"}
        document = {
            "format": 1, "run_id": run_id, "job": "weekly-satisfaction", "period": self.made[period]["period"],
            "evaluated_at": "2026-11-20T06:00:00.000Z", "labels": {"uri": f"{self.root}/labels/{period}.csv", "etag": "l", "column": "satisfied"},
            "coverage": {"rows": rows + 80, "labelled": rows, "share": rows / (rows + 80), "without_row": 3, "repeated": 0, "empty": 5, "foreign": 0},
            "minimum": 100, "kind": "classifier", "group_by": self.group_by,
            "models": [{"variant": "champion", "name": "satisfaction", "version": 1, "rows": rows, "metrics": {"roc_auc": auc}, "calibration": calibration}],
            "groups": [
                {"group": name, "variant": "champion", "rows": count, "metrics": {}, "calibration": {"predicted": before, "observed": after, "interval": None, "verdict": "predicts too much"}}
                for name, (count, before, after) in (groups or {}).items()
            ],
            "state": "degraded", "sentences": ["ROC AUC is 0.831, below the 0.89 of registration."],
        }  # fmt: skip
        records.create(
            f"{self.root}/runs/weekly-satisfaction/{run_id}/evaluations/{hash_of(period):016x}.json", document
        )

    def json(self, name: str) -> dict[str, Any]:
        body = storage_for(self.root).get(f"{self.root}/{name}")
        assert body is not None, name
        found: dict[str, Any] = json.loads(body)
        return found


def hash_of(text: str) -> int:
    """The same number for the same text, in every process."""
    from batch.execution.identity import sha256

    return int(sha256(text.encode())[:16], 16)


def utc(moment: datetime) -> str:
    from datetime import UTC

    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def weeks_before(last: str, count: int = 12) -> list[str]:
    """Names of `count` weeks, oldest first."""
    found = [parse_period(last, "week", ZONE)]
    while len(found) < count:
        found.append(last_complete(found[-1].start, "week", ZONE))
    return [one.name for one in reversed(found)]


def quarter(weeks: Weeks, last: str = "2026-W46", *, kind: str = "share") -> list[str]:
    """Twelve ordinary weeks: means that drift a little, one product that drops in the last; gives their names."""
    names = weeks_before(last)
    scale = 1000.0 if kind == "mean" else 1.0
    for number, name in enumerate(names):
        wave = 0.02 * ((number * 7) % 5 - 2) / 2
        of: dict[str | None, tuple[int, float]] = {
            product: (rows + 11 * number, scale * (mean + wave)) for product, (rows, mean) in PRODUCTS.items()
        }
        if number == len(names) - 1:
            of["Kestrel Bike"] = (of["Kestrel Bike"][0], scale * 0.66)
        weeks.add(name, Groups(of, sd=0.2 * scale, kind=kind))
    return names
