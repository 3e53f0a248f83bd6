"""Retry: the mended rejects of a run are scored by the run's own models and put in their places, and the rest keeps its bytes.

A retry is a run: its id is a hash of the run it mends and of the version of the mended file, it has a commit, a register entry and
a receipt, and asking for it again does nothing. Its commit names the other run's chunks wherever no row of them was mended.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from batch import placeholders
from batch.clock import SYSTEM, Clock
from batch.errors import InputFormatError, InputMissing, InputRefused, ModelChanged
from batch.execution import chunk, commit, finish, history, records
from batch.execution.about import About
from batch.execution.attempt import Attempt
from batch.execution.chunk import ChunkDamaged, ChunkRecord, record_from_commit
from batch.execution.coordinate import Scored
from batch.execution.identity import FORMAT, canonical, sha256
from batch.execution.inputs import InputFile, Inputs
from batch.execution.layout import make_layout
from batch.execution.loading import limited, load_models, shadow_names
from batch.execution.memory import PeakMemory
from batch.execution.mend import Fixed, chunk_origins, mended, rejected_places, shape_of
from batch.execution.ownership import Owners
from batch.execution.plan import Plan, look
from batch.execution.preflight import Prepared
from batch.execution.process import prepare_process
from batch.execution.receipt import Receipt
from batch.execution.route import Models
from batch.execution.score import store
from batch.execution.scratch import scratch_folder
from batch.execution.standing import standing
from batch.formats import format_of
from batch.job import Job
from batch.models import bundle
from batch.period import Period
from batch.storage import ObjectInfo, Source, join, storage_for


def retry(root: str, run: str, fixed: str, *, clock: Clock = SYSTEM) -> Receipt:
    """Score the rows of a mended rejects file of a run, and publish the run's output with them in their places.

    `run`: its id, a prefix of it, or ``JOB@latest``; completed, or over its reject budget. `fixed`: URI of the mended file.

    Raises `InputRefused` for rows that the run did not reject, each once, and where the run's chunks are gone;
    `RejectBudgetExceeded` where too many stay rejected; and whatever a run raises.
    """
    prepare_process()
    base = Base(root, run)
    prepared = base.prepare(fixed)
    if (found := standing(prepared)) is not None:
        return found
    attempt = Attempt(prepared, "retry", time.time(), retry_of=base.run_id)
    with PeakMemory() as memory, finish.accounted(attempt, memory):
        attempt.acquire(base.lease_subject, clock)
        if (found := standing(prepared)) is not None:
            return found
        attempt.begin()
        base.check_owners(prepared.run_id, fixed)
        with scratch_folder() as scratch:
            document = commit.load_commit(prepared.folder) or _decide(attempt, base, scratch)
        # Its chunks are another run's for the most part: one that is damaged cannot be scored again from here.
        outputs = finish.publish_outputs(attempt, document, lambda act: act())
        return finish.record(attempt, document, outputs, base.rows_per_input, memory)


class Base:
    """The run that is mended: what it committed, or would have, had it not been over budget."""

    def __init__(self, root: str, run: str) -> None:
        self.receipt = history.find_run(root, run)
        self.run_id, job = self.receipt["run_id"], self.receipt["job"]
        if self.run_id is None:
            raise InputRefused(f"run {run} never began: it rejected nothing", hint="run the corrected input")
        self.folder = join(root, "runs", job, self.run_id)
        plan = records.load(join(self.folder, "plan.json")) or {}
        found = commit.load_commit(self.folder)
        if found is None or commit.is_abandoned(found):
            found = records.load(join(self.folder, commit.UNPUBLISHED))
        if found is None or not plan or not found["rows"]["rejected"]:
            raise InputRefused(
                f"run {self.run_id} ({self.receipt['state']}) has no rejected rows that could be put in their places",
                hint="run the corrected input",
            )
        self.allowed: int = found.pop("allowed", found["rows"]["rejected"])
        """Rows that may stay rejected: the budget, or as many as were put up with when it was published."""
        self.document, self.plan = found, plan
        self.job = Job.model_validate(plan["config"] | {"root": root})
        self.chunks = {one.index: one for one in (record_from_commit(self.folder, each) for each in found["chunks"])}

    def prepare(self, fixed: str) -> Prepared:
        """The retry, named; nothing is read yet."""
        pin = storage_for(fixed).head(fixed)
        if pin is None:
            raise InputMissing(f"there is no file {fixed}", hint="name the mended rejects file")
        format_name, compression = format_of(fixed)
        wanted = self.document["rejects"][0]["format"]
        if (format_name or wanted) != wanted:
            raise InputFormatError(
                f"{fixed} is {format_name}, but the rejects are {wanted}", hint=f"save it as {wanted}"
            )
        version = pin.version_id or f"{pin.etag}-{pin.size_bytes}"
        run_id = sha256(canonical({"format": FORMAT, "retry_of": self.run_id, "fixed": version}))[:16]
        files = tuple(self._input(one) for one in self.receipt["input"])
        prepared = Prepared(self.job, self._about(), Inputs(files, many=len(files) > 1), self._models(), run_id)
        self.fixed = InputFile(pin, "", wanted, compression)
        return prepared

    def _about(self) -> About:
        period = self.receipt["period"]
        moments = (datetime.fromisoformat(period[key]) for key in ("start", "end")) if period else ()
        return About(Period(period["name"], *moments) if period else None, named=self.receipt["subject"])

    def _input(self, told: dict[str, Any]) -> InputFile:
        pin = ObjectInfo(told["uri"], told["size_bytes"], told["etag"], told["version_id"], datetime.now(UTC))
        return InputFile(pin, "", self.document["rejects"][0]["format"], "")

    def _models(self) -> dict[str, bundle.ResolvedModel]:
        """The very versions that the run used, by variant. Raises `ModelChanged` where one is another one now."""
        found = {}
        for name, recorded in self.plan["models"].items():
            resolved = found[name] = bundle.resolve(recorded["uri"], self.job.root)
            if resolved.sha256 != recorded["sha256"]:
                raise ModelChanged(
                    f"{recorded['uri']} has sha256 {resolved.sha256}, run {self.run_id} used {recorded['sha256']}",
                    hint="run the corrected input with the model of today",
                )
        return found

    @property
    def outputs(self) -> list[str]:
        """The run's output URIs."""
        return [one["uri"] for one in self.document["outputs"]]

    @property
    def lease_subject(self) -> str:
        """What the run's own lease was about: see `Prepared.lease_subject`."""
        if len(self.outputs) == 1:
            return self.outputs[0]
        return placeholders.render(self.job.output.uri, period=self._about().period, run_id=self.run_id)

    def check_owners(self, run_id: str, fixed: str) -> None:
        """Refuse to replace somebody else's file; a rejects file that was mended in its place may be. Raises `OutputRefused`."""
        owners = Owners(self.job, run_id)
        for output, rejects in zip(self.outputs, self.document["rejects"], strict=True):
            owners.check_output(output)
            if rejects["uri"] != fixed:
                owners.check_rejects(rejects["uri"], output)

    @property
    def rows_per_input(self) -> list[int]:
        """Rows of each input, in the order of the receipt."""
        rows: dict[str, int] = {}
        for spec in self.document["rejects"]:
            chunks = iter(spec["chunks"])
            for name, count in spec["inputs"]:
                rows[name] = sum(self.chunks[next(chunks)].rows_read for _ in range(count))
        return [rows.get(one["uri"], 0) for one in self.receipt["input"]]

    def as_plan(self, prepared: Prepared) -> Plan:
        """What reading and encoding its rows needs; it has nothing to be cut."""
        spec, write = self.document["rejects"][0], commit.write_options_from_json(self.document["write"])
        output = self.document["write"]["format"], write.compression
        layout = make_layout(self.job, prepared.models, [shape_of(spec)], spec["format"], output, self.outputs)
        return Plan(
            run_id=prepared.run_id, folder=prepared.folder, input_format=spec["format"],
            output_format=layout.output_format, read=layout.read, write=write, files=(),
            outputs=tuple(self.outputs), tasks=(), predict_rows=self.job.run.predict_rows,
            chunk_seconds=self.job.run.chunk_seconds, extra_columns=(), id_column=layout.id_column,
            unique_id=layout.unique_id, salt=layout.salt, splits=layout.splits, shadows=layout.shadows,
            group_by=layout.group_by,
        )  # fmt: skip


def _decide(attempt: Attempt, base: Base, scratch: str) -> dict[str, Any]:
    """Score the mended rows, stage the chunks they belong to, and store the commit."""
    prepared = attempt.prepared
    plan = base.as_plan(prepared)
    with attempt.phases.phase("load_model"):
        models = limited(plan, load_models(prepared.models, shadow_names(plan), base.job.trust.pickle_sha256))
    try:
        origins = chunk_origins(base.document, base.chunks)
        places = rejected_places(origins, base.chunks)
        pin, _ = look(base.fixed, base.job, plan.read, scratch, 0)
        with attempt.phases.phase("score"):
            fixed = Fixed(plan, Source(storage_for(pin.uri), pin, base.fixed.pin.uri), plan.read, places)
            if plan.unique_id:
                fixed.find_repeated(base.chunks, origins)
            staged = _stage(plan, models, fixed, base.chunks)
    except ChunkDamaged as damage:
        raise InputRefused(
            f"a staged chunk of run {base.run_id} is gone or damaged ({damage.record.uri}): its rows cannot be put in their places",
            hint="clean has taken them, or something did: run the corrected input",
        ) from damage
    attempt.scored = Scored(records=base.chunks | staged)
    attempt.chunks_total = len(base.chunks)
    document = _commit(base, prepared, staged)
    chunks = [*(base.chunks | staged).values()]
    records.create(join(prepared.folder, "plan.json"), base.plan | {"run_id": prepared.run_id, "retry_of": base.run_id})
    if finish.rejected_of(chunks) > base.allowed:
        finish.refuse_complete(attempt, document, chunks, base.allowed)
    with attempt.phases.phase("commit"):
        attempt.still_mine()
        return commit.store_commit(prepared.folder, document)


def _stage(plan: Plan, models: Models, fixed: Fixed, chunks: dict[int, ChunkRecord]) -> dict[int, ChunkRecord]:
    """The chunks with mended rows in them, by index; what an earlier attempt has stored is not scored again."""
    prefix = join(plan.folder, "chunks", "")
    stored = {key[0]: info for info in storage_for(prefix).list(prefix) if (key := chunk.parse_key(info.uri))}
    found = {}
    for index in sorted({place.chunk for place in fixed.places}):
        known = chunk.read_verified(stored[index]) if index in stored else None
        found[index] = known or store(plan, *mended(plan, models, fixed, chunks[index]), {})
    return found


def _commit(base: Base, prepared: Prepared, staged: dict[int, ChunkRecord]) -> dict[str, Any]:
    """The run's commit with the mended chunks in it; the others stay where they are."""
    after = base.chunks | staged
    chunks = [
        staged[index].as_dict() if index in staged else {"run": base.run_id} | entry
        for index, entry in zip(base.chunks, base.document["chunks"], strict=True)
    ]
    outputs, shadows = (
        [one | _digested(one, after) for one in base.document.get(key, ())] for key in ("outputs", "shadows")
    )
    rejects = [one | _counted(one["chunks"], after) for one in base.document["rejects"]]
    rows = {
        "read": sum(one.rows_read for one in after.values()),
        "predicted": sum(one.rows_predicted for one in after.values()),
        "rejected": sum(one.rows_rejected for one in after.values()),
    }
    changed = {"run_id": prepared.run_id, "chunks": chunks, "outputs": outputs, "rejects": rejects, "rows": rows}
    changed |= {"shadows": shadows} if shadows else {}
    return base.document | changed | {"retry_of": base.run_id}


def _digested(one: dict[str, Any], after: dict[int, ChunkRecord]) -> dict[str, Any]:
    """What of the spec of a file with predictions depends on the rows in it."""
    mine = [after[index] for index in one["chunks"]]
    digest = commit.chunks_sha256(mine, one.get("section", "rows"))
    return {"chunks_sha256": digest, "rows": sum(record.rows_predicted for record in mine)}


def _counted(chunks: list[int], after: dict[int, ChunkRecord]) -> dict[str, Any]:
    """What of a rejects file's spec depends on how many rows are left in it."""
    by_code: Counter[str] = Counter()
    for index in chunks:
        by_code.update(after[index].by_code)
    return {"rows": sum(after[index].rows_rejected for index in chunks), "by_code": dict(by_code)}
