"""The performance of delivered predictions by labels that arrive late.

What was found is recorded beside the run, once for each version of the labels and each way to ask: weeks later there may be more of
them, and that is another record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batch import placeholders
from batch.errors import InputMissing, UsageError
from batch.execution import history, records
from batch.execution.identity import canonical, sha256
from batch.execution.preflight import period_of
from batch.execution.scratch import scratch_folder
from batch.job import Job
from batch.models.bundle import ResolvedModel
from batch.monitor.calibration import LACKING
from batch.monitor.codes import NO_LABEL, Codes, codes_of_classes
from batch.monitor.compare import differ_in_kind
from batch.monitor.delivered import CHAMPION, Run
from batch.monitor.findings import sentences, state_of
from batch.monitor.intervals import Mean
from batch.monitor.join import Field
from batch.monitor.labelled import LabelledRows, chances_fields
from batch.monitor.labels import LabelFile, Labelling
from batch.monitor.metrics import MIN_ROWS, number
from batch.monitor.performance import Performance, judged, parted, plain
from batch.period import Period
from batch.storage import join, storage_for

FORMAT = 1
"""Of the record. Raise it when an older reader would misread one; keep reading every older form."""
ROW: list[Field] = [("variant", "<i8"), ("group", "<i8"), ("label", "<i8"), ("score", "<f8")]
SUBJECTS_SHOWN = 10
SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found, and whether it was found just now."""

    document: dict[str, Any]
    uri: str
    """Where it is recorded."""
    is_new: bool


def evaluate(
    job: Job,
    *,
    labels: str,
    label_column: str = "label",
    period: str | None = None,
    now: datetime | None = None,
    run: str = "",
    group_by: str = "",
    minimum: int = MIN_ROWS,
) -> Evaluation:
    """Judge what a run of the job delivered by a file with the job's id column and `label_column`, and record it.

    The run is `run` (id, prefix or ``JOB@latest``), else the one that stands for `period`, else for the last period complete at `now`, else
    the newest. `labels` may have the placeholders of a period and ``{run_id}``. `group_by`: a column of the output, default the job's
    ``[report] group_by``. Nothing is judged on fewer than `minimum` labelled rows. Memory is bounded.

    Raises `InputMissing` without such a run or such a file, `SchemaMismatch` for a column that it lacks and for labels of which none is what
    the model predicts, `UsageError` for a run without ids, and what reading raises.
    """
    found = find(job, period, now, run)
    if not found.id_column:
        raise UsageError(
            f"the output of run {found.run_id} has no id to join labels by",
            hint="name it in [input] id and keep it in the output: [output] keep",
        )
    default = job.report.group_by if job.report.group_by in found.columns else ""
    groups = found.group_column(group_by or default)
    with scratch_folder() as scratch:
        known = LabelFile(_rendered(labels, found), found.id_column, label_column, scratch)
        source = {"uri": known.uri, "etag": known.etag, "column": label_column}
        uri = _place(found.folder, {"labels": source, "group_by": groups, "minimum": minimum})
        if (document := records.load(uri)) is not None:
            return Evaluation(document, uri, is_new=False)
        asked = _Asked(found, known, groups, minimum)
        document = {
            "format": FORMAT,
            "run_id": found.run_id,
            "job": found.receipt["job"],
            "period": found.receipt["period"],
            "evaluated_at": (now or datetime.now(UTC)).astimezone(UTC).isoformat(),
            "labels": source,
            **asked.judge(scratch),
        }
    document["state"] = state_of(document["models"])
    document["sentences"] = [*sentences(document), *asked.not_judged]
    if records.create(uri, document):
        return Evaluation(document, uri, is_new=True)
    return Evaluation(records.load(uri) or document, uri, is_new=False)  # somebody else was faster


def evaluations(root: str, job: str, run_id: str) -> list[dict[str, Any]]:
    """The recorded evaluations of a run, newest last."""
    folder = join(root, "runs", job, run_id, "evaluations", "")
    found = [records.load(info.uri) for info in storage_for(folder).list(folder)]
    return sorted((one for one in found if one is not None), key=lambda one: str(one["evaluated_at"]))


def find(job: Job, period: str | None, now: datetime | None, run: str) -> Run:
    """The completed run that is meant: see `evaluate`."""
    if run:
        if period:
            raise UsageError("a run has its own period: --run and --period cannot both be given", hint="leave one out")
        found = Run(job.root, run)
        if found.receipt["job"] != job.name:
            raise UsageError(f"run {found.run_id} is of job '{found.receipt['job']}', not of '{job.name}'")
        return found
    subjects = history.done_subjects(job.root, job.name)
    done = sorted(subject for subject, given_up in subjects.items() if not given_up)
    if not done:
        raise InputMissing(
            f"job '{job.name}' has no completed run under {job.root}", hint=f"run it: batch-predict run {job.name}"
        )
    asked = period_of(job, period, now) if period is not None or now is not None else None
    if asked is None:
        return Run(job.root, f"{job.name}@latest")
    if asked.name not in done:
        which = f"the last {SUBJECTS_SHOWN} of {len(done)} that are done" if len(done) > SUBJECTS_SHOWN else "done are"
        raise InputMissing(
            f"job '{job.name}' has no completed run for {asked.name} under {job.root}",
            hint=f"{which}: {', '.join(done[-SUBJECTS_SHOWN:])}",
        )
    return Run(job.root, _standing(job, asked.name))


def _standing(job: Job, subject: str) -> str:
    """The newest completed run of a period whose output still is its own, else the newest one."""
    lines = [one for one in history.list_runs(job.root, job=job.name, period=subject) if one["exit_code"] == 0]
    return str(max(lines, key=lambda one: (one["state"] != "superseded", str(one["started_at"])))["run_id"])


def _rendered(labels: str, run: Run) -> str:
    """The URI with its placeholders filled in."""
    told = run.receipt["period"]
    try:
        placeholders.check(labels, tuple(name for name in placeholders.NAMES if name != "stem"))
    except ValueError as error:
        raise UsageError(f"--labels {labels}: {error}") from None
    if placeholders.uses_period(labels) and not told:
        raise UsageError(f"--labels {labels} names a period, and run {run.run_id} is about none", hint="name the file")
    period = Period(told["name"], *(datetime.fromisoformat(told[key]) for key in ("start", "end"))) if told else None
    return placeholders.render(labels, period=period, run_id=run.run_id)


def _place(folder: str, asked: dict[str, Any]) -> str:
    """Where the evaluation of one version of the labels is, asked for in one way."""
    return join(folder, "evaluations", f"{sha256(canonical({'format': FORMAT, **asked}))[:16]}.json")


@dataclass(slots=True)
class _Asked:
    """One evaluation of a run."""

    run: Run
    known: LabelFile
    group_by: str
    minimum: int
    not_judged: list[str] = field(default_factory=list)
    """Why a variant is left out, as sentences."""

    def judge(self, scratch: str) -> dict[str, Any]:
        """What the labels say of each delivering model, with the coverage first."""
        models = self._models()
        outputs = models[CHAMPION].outputs
        classes, names, labelling = codes_of_classes(outputs), Codes(self.group_by), Labelling(self.known.uri)
        performances = {variant: Performance(outputs) for variant in models}
        fields = [*ROW, *chances_fields(outputs, "chances")]
        to_join = LabelledRows(self.known, fields, self.run.receipt["rows"]["predicted"], scratch)
        scores, of_labelled = Mean(), Mean()
        files = self.run.outputs("predictions")
        for batch in self.run.batches(files, outputs, classes, scratch, group_codes=names, group_by=self.group_by):
            values = (batch.variants, batch.groups, batch.labels, batch.scores, batch.chances)
            to_join.rows.add(batch.ids, dict(zip(to_join.rows.fields, values, strict=True)))
            scores.add(batch.scores)
        for part in to_join.joined(outputs, classes, labelling):
            usable = labelling.count(part.right["code"])
            rows, truth = part.left[usable], part.right[usable]
            of_labelled.add(rows["score"])
            for code, mine in parted(rows["variant"]):
                variant = CHAMPION if code == NO_LABEL else names.texts[code]
                if variant in performances:
                    performances[variant].add(rows[mine], truth[mine])
        has_mean = performances[CHAMPION].whole.calibration is not None
        return {
            "coverage": _coverage(labelling.as_dict(outputs), to_join.rows.rows)
            | {
                "mean_score": number(scores.mean) if has_mean else None,
                "mean_score_labelled": number(of_labelled.mean) if has_mean else None,
            },
            "minimum": self.minimum,
            "kind": outputs.kind,
            "positive": str(outputs.classes[-1]) if performances[CHAMPION].has_score else None,
            "group_by": self.group_by,
            "models": [self._judged(each, models[variant], variant) for variant, each in performances.items()],
            "groups": sorted(self._groups(performances, names.texts), key=_by_group) if self.group_by else [],
        }

    def _models(self) -> dict[str, ResolvedModel]:
        """Of the variants that delivered rows, the champion first; the others are told why they are left out."""
        found = {CHAMPION: self.run.model(CHAMPION)}
        for one in self.run.receipt["models"]:
            variant = one["variant"]
            if one["mode"] == SHADOW:
                self.not_judged.append(
                    f"Shadow '{variant}' delivered nothing and is not judged here: "
                    f"batch-predict models compare --run {self.run.run_id} --labels URI compares it."
                )
            elif variant != CHAMPION:
                model = self.run.model(variant)
                if differs := differ_in_kind(found[CHAMPION].outputs, model.outputs):
                    self.not_judged.append(f"Variant '{variant}' is not judged: {differs} have no labels in common.")
                else:
                    found[variant] = model
        return found

    def _judged(self, performance: Performance, model: ResolvedModel, variant: str) -> dict[str, Any]:
        """The entry of one model."""
        whole, calibration = performance.whole, performance.whole.calibration
        told = None
        if calibration is not None:
            told = calibration.as_dict(self.minimum)
            told["bins"] = calibration.bins() if told["verdict"] != LACKING else []
        return {
            "variant": variant,
            "name": model.name,
            "version": model.version,
            "rows": whole.rows,
            "metrics": judged(performance.values(self.minimum), registered_metrics(model.card)),
            "calibration": told,
        }

    def _groups(self, performances: dict[str, Performance], texts: list[str]) -> Iterator[dict[str, Any]]:
        for variant, performance in performances.items():
            for code, tally, values in performance.group_values(self.minimum):
                yield {
                    "group": None if code == NO_LABEL else texts[code],
                    "variant": variant,
                    "rows": tally.rows,
                    "metrics": {name: plain(one) for name, one in values.items() if name != "mse"},
                    "calibration": tally.calibration.as_dict(self.minimum) if tally.calibration is not None else None,
                }


def registered_metrics(card: dict[str, Any]) -> dict[str, float]:
    """The numbers that a model was registered with; {} for one that has none."""
    metrics = card.get("metrics") or {}
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _coverage(counts: dict[str, int], rows: int) -> dict[str, Any]:
    judged_rows = counts["judged"]
    others = {name: counts[name] for name in ("without_row", "repeated", "empty", "foreign")}
    return {"rows": rows, "labelled": judged_rows, "share": judged_rows / rows if rows else 0.0, **others}


def _by_group(one: dict[str, Any]) -> tuple[bool, str]:
    """By text, null last; of one group the variants stay as they are."""
    return one["group"] is None, one["group"] or ""
