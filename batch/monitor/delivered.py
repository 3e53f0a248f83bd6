"""What a run has delivered, read back row by row from its commit, or from its files where they still are its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batch.errors import InputRefused, UsageError
from batch.execution import history, records
from batch.execution.chunk import ChunkDamaged
from batch.execution.commit import is_cleaned
from batch.execution.committed import Commits
from batch.execution.ownership import sha256_of
from batch.execution.variants import VARIANT
from batch.formats import FORMATS, Column, ReadOptions, format_of
from batch.formats.compression import spool
from batch.formats.id_text import id_texts
from batch.job import Job
from batch.models import bundle
from batch.models.bundle import ResolvedModel
from batch.models.outputs import Outputs
from batch.monitor.codes import NO_LABEL, Codes, spelled
from batch.monitor.metrics import chances_of
from batch.monitor.reading import blocks
from batch.storage import Source, join, storage_for

CHAMPION = "champion"
PIECE_BYTES = 8 << 20
RECORD_BYTES = 256 << 20
"""A delivered record was within the job's limit when it was read, and is longer by its predictions and its quoting."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file with predictions, in order."""

    ids: pa.Array
    """Strings; null where the run has no id column."""
    labels: np.ndarray
    """Codes of the predictions; all `NO_LABEL` for a regressor."""
    scores: np.ndarray
    """float64: the score column, NaN where it is null or where there is none."""
    chances: np.ndarray
    """float64, shape (rows, classes): their probabilities where there are more than two, else (rows, 0)."""
    groups: np.ndarray
    """Codes of the group; all `NO_LABEL` without one."""
    variants: np.ndarray
    """Codes of who scored the row; all `NO_LABEL` where the champion alone did."""


class Run:
    """One completed run, for reading what it delivered."""

    def __init__(self, root: str, run: str) -> None:
        """Raises `UsageError` for a run that did not complete."""
        self.root = root
        self.receipt = history.find_run(root, run)
        if not self.receipt["state"].startswith("completed"):
            raise UsageError(f"run {self.run_id} {self.receipt['state']}: it delivered nothing")
        self.folder = join(root, "runs", self.receipt["job"], self.run_id)
        plan = records.load(join(self.folder, "plan.json"))
        if plan is None:
            raise InputRefused(f"run {self.run_id} has no plan.json under {root}", hint="restore it, or run again")
        self.job = Job.model_validate(plan["config"] | {"root": root})
        self._models: dict[str, dict[str, str]] = plan["models"]
        self._commits = Commits()

    @property
    def run_id(self) -> str:
        return str(self.receipt["run_id"])

    @property
    def id_column(self) -> str:
        """The job's id column where the output holds it, else ""."""
        name = self.job.input.id
        return name if all(name in one["columns"] for one in self.outputs("predictions")) else ""

    def outputs(self, role: str, variant: str = "") -> list[dict[str, Any]]:
        """The files of one role, as the receipt tells of them."""
        return [one for one in self.receipt["output"] if one["role"] == role and variant in {"", one.get("variant")}]

    def model(self, variant: str) -> ResolvedModel:
        """The model of a variant. Raises `ModelRefused`."""
        return bundle.resolve(self._models[variant]["uri"], self.root)

    def kind(self, variant: str) -> Outputs:
        """What that model gives. Raises `ModelRefused`."""
        return self.model(variant).outputs

    def batches(
        self,
        files: Iterable[dict[str, Any]],
        outputs: Outputs,
        labels: Codes,
        scratch: str,
        *,
        group_codes: Codes,
        group_by: str = "",
    ) -> Iterator[Batch]:
        """The rows of some files, in order.

        Raises `InputRefused` where neither chunks nor file can be read any more, and `UsageError` where `group_by` makes no groups.
        """
        for one in files:
            path = os.path.join(scratch, "delivered." + (format_of(one["uri"])[0] or "csv"))
            self._fetch(one, path, scratch)
            wanted = _Wanted(outputs, self.id_column, group_by)
            for table in _tables(path, one, self.job.input.delimiter, wanted):
                yield wanted.batch(table, labels, group_codes)
            os.unlink(path)

    @property
    def columns(self) -> set[str]:
        """Of the delivered rows."""
        return set.intersection(*(set(one["columns"]) for one in self.outputs("predictions")))

    def group_column(self, asked: str) -> str:
        """`asked`, or else the job's ``[report] group_by`` where the output has it. Raises `UsageError` for a column it lacks."""
        if asked and asked not in self.columns:
            raise UsageError(
                f"the output of run {self.run_id} has no column {asked!r}",
                hint=f"its columns: {', '.join(sorted(self.columns))}",
            )
        default = self.job.report.group_by
        return asked or (default if default in self.columns else "")

    def _fetch(self, one: dict[str, Any], path: str, scratch: str) -> None:
        """Write the decompressed file: as its commit stands for it, which is what was delivered whatever the key holds now."""
        _, compression = format_of(one["uri"])
        packed = os.path.join(scratch, "packed") if compression else path
        damaged = None if is_cleaned(self.folder) else self._write(packed, self._committed(one))
        if is_cleaned(self.folder) or damaged is not None:
            self._write(packed, self._standing(one, damaged))
        if compression:
            info = storage_for(packed).head(packed)
            assert info is not None, "it was just written"
            source = Source(storage_for(packed), info, one["uri"])
            spool(source, compression, path, max_decompressed_bytes=1 << 50, max_ratio=1e9)  # our own file
            os.unlink(packed)

    def _write(self, path: str, pieces: Iterator[bytes]) -> ChunkDamaged | None:
        """Write a file; what is wrong with the staged chunks where that ends it early."""
        try:
            with open(path, "wb") as file:
                file.writelines(pieces)
        except ChunkDamaged as error:
            return error
        return None

    def _committed(self, one: dict[str, Any]) -> Iterator[bytes]:
        return self._commits.files(self.folder, one["uri"]).bytes()

    def _standing(self, one: dict[str, Any], damaged: ChunkDamaged | None) -> Iterator[bytes]:
        """The published file, if it is still the run's own."""
        info = storage_for(one["uri"]).head(one["uri"])
        if info is None or sha256_of(info) != one["sha256"]:
            why = f"cannot be read ({damaged.message})" if damaged else "were cleaned"
            raise InputRefused(
                f"the staged chunks of run {self.run_id} {why}, and {one['uri']} is not its file any more",
                hint="run the period again with --force",
            )
        source = Source(storage_for(one["uri"]), info)
        for start in range(0, source.size_bytes, PIECE_BYTES):
            yield source.read(start, min(start + PIECE_BYTES, source.size_bytes))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is read of a file with predictions."""

    outputs: Outputs
    id_column: str
    group_by: str

    @property
    def score(self) -> str:
        """The score column, or ""."""
        return self.outputs.score if len(self.outputs.columns) > 1 or self.outputs.kind == "regressor" else ""

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in (self.score, *chances_of(self.outputs)) if name))

    @property
    def texts(self) -> tuple[str, ...]:
        label = "prediction" if self.outputs.kind == "classifier" else ""
        return tuple(dict.fromkeys(name for name in (self.id_column, self.group_by, VARIANT, label) if name))

    def batch(self, table: pa.Table, labels: Codes, groups: Codes) -> Batch:
        """A decoded block in codes."""
        nothing = pa.nulls(table.num_rows, pa.string())

        def texts(name: str) -> pa.Array:
            return id_texts(table, name) if name in table.column_names else nothing

        def numbers(name: str) -> np.ndarray:
            found: np.ndarray = table[name].to_numpy().astype(np.float64, copy=False)
            return found

        found = np.full(table.num_rows, NO_LABEL)
        if self.outputs.kind == "classifier":
            found = labels.of(spelled(texts("prediction"), self.outputs))
        return Batch(
            ids=texts(self.id_column),
            labels=found,
            scores=numbers(self.score) if self.score else np.full(table.num_rows, np.nan),
            chances=np.empty((table.num_rows, 0))
            if not chances_of(self.outputs)
            else np.stack([numbers(name) for name in chances_of(self.outputs)], axis=1),
            groups=groups.of(texts(self.group_by)),
            variants=groups.of(texts(VARIANT)),
        )


def _tables(path: str, one: dict[str, Any], delimiter: str, wanted: _Wanted) -> Iterator[pa.Table]:
    name = format_of(path)[0]
    if wanted.group_by in wanted.numbers:
        raise UsageError(f"column {wanted.group_by!r} is a score and makes no groups", hint="choose another --group-by")
    options = ReadOptions(
        tuple(Column(column, "double", required=False) for column in wanted.numbers),
        kept=tuple(column for column in wanted.texts if column in one["columns"]),
        delimiter=delimiter if name == "csv" else ",",
        max_record_bytes=RECORD_BYTES,
        on_range="allow",
    )
    storage = storage_for(path)
    info = storage.head(path)
    assert info is not None, "it was just written"
    if not one["rows"]:
        return
    source = Source(storage, info, one["uri"])
    shape = FORMATS[name].inspect(source, options)
    for block in blocks(source, shape, name, options):
        if block.rejects is not None and block.rejects.num_rows:
            raise InputRefused(
                f"{one['uri']} holds rows that cannot be read",
                hint="batch-predict verify says whether somebody changed it",
            )
        yield block.table
