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
from batch.formats import FORMATS, Column, Cut, ReadOptions, format_of
from batch.formats.compression import spool
from batch.formats.id_text import id_texts
from batch.job import Job
from batch.models import bundle
from batch.models.outputs import Outputs
from batch.storage import Source, join, storage_for

CHAMPION = "champion"
PIECE_BYTES = 8 << 20
NO_LABEL = -1
"""Code of a prediction that is null."""


class Codes:
    """Texts as small numbers, the same ones for everything that is compared."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def of(self, texts: pa.Array) -> np.ndarray:
        """int64 codes; `NO_LABEL` for null."""
        encoded = texts.dictionary_encode()
        known = [self._codes.setdefault(text, len(self._codes)) for text in encoded.dictionary.to_pylist()]
        codes = np.array([*known, NO_LABEL], np.int64)
        found: np.ndarray = np.take(codes, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), mode="wrap")
        return found

    @property
    def texts(self) -> list[str]:
        """By code."""
        return [*self._codes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file with predictions, in order."""

    ids: pa.Array
    """Strings; null where the run has no id column."""
    labels: np.ndarray
    """Codes of the predictions; all `NO_LABEL` for a regressor."""
    scores: np.ndarray
    """float64: the score column, NaN where it is null or where there is none."""
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

    def kind(self, variant: str) -> Outputs:
        """What the model of a variant gives. Raises `ModelRefused`."""
        return bundle.resolve(self._models[variant]["uri"], self.root).outputs

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
        """The rows of some files, in order. Raises `InputRefused` where neither chunks nor file can be read any more."""
        for one in files:
            path = os.path.join(scratch, "delivered." + (format_of(one["uri"])[0] or "csv"))
            self._fetch(one, path, scratch)
            score = outputs.score if len(outputs.columns) > 1 or outputs.kind == "regressor" else ""
            wanted = _Wanted(outputs.kind == "classifier", score, self.id_column, group_by)
            for table in _tables(path, one, self.job.input.delimiter, wanted):
                yield wanted.batch(table, labels, group_codes)
            os.unlink(path)

    def _fetch(self, one: dict[str, Any], path: str, scratch: str) -> None:
        """Write the decompressed file: as its commit stands for it, which is what was delivered whatever the key holds now."""
        _, compression = format_of(one["uri"])
        packed = os.path.join(scratch, "packed") if compression else path
        with open(packed, "wb") as file:
            file.writelines(self._pieces(one))
        if compression:
            info = storage_for(packed).head(packed)
            assert info is not None, "it was just written"
            source = Source(storage_for(packed), info, one["uri"])
            spool(source, compression, path, max_decompressed_bytes=1 << 50, max_ratio=1e9)  # our own file
            os.unlink(packed)

    def _pieces(self, one: dict[str, Any]) -> Iterator[bytes]:
        if not is_cleaned(self.folder):
            try:
                yield from self._commits.files(self.folder, one["uri"]).bytes()
            except ChunkDamaged as error:
                raise InputRefused(f"run {self.run_id} cannot be read: {error.message}", hint=error.hint) from error
            return
        info = storage_for(one["uri"]).head(one["uri"])
        if info is None or sha256_of(info) != one["sha256"]:
            raise InputRefused(
                f"the staged chunks of run {self.run_id} were cleaned, and {one['uri']} is not its file any more",
                hint="run the period again with --force",
            )
        source = Source(storage_for(one["uri"]), info)
        for start in range(0, source.size_bytes, PIECE_BYTES):
            yield source.read(start, start + PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is read of a file with predictions."""

    has_classes: bool
    score: str
    """The score column, or ""."""
    id_column: str
    group_by: str

    @property
    def texts(self) -> tuple[str, ...]:
        names = (self.id_column, self.group_by, VARIANT, "prediction" if self.has_classes else "")
        return tuple(dict.fromkeys(name for name in names if name))

    def batch(self, table: pa.Table, labels: Codes, groups: Codes) -> Batch:
        """A decoded block in codes."""
        nothing = pa.nulls(table.num_rows, pa.string())

        def texts(name: str) -> pa.Array:
            return id_texts(table, name) if name in table.column_names else nothing

        scores = np.full(table.num_rows, np.nan)
        if self.score:
            scores = table[self.score].to_numpy().astype(np.float64, copy=False)
        found = labels.of(texts("prediction") if self.has_classes else nothing)
        return Batch(texts(self.id_column), found, scores, groups.of(texts(self.group_by)), groups.of(texts(VARIANT)))


def _tables(path: str, one: dict[str, Any], delimiter: str, wanted: _Wanted) -> Iterator[pa.Table]:
    name = format_of(path)[0]
    kept = tuple(column for column in wanted.texts if column in one["columns"])
    typed = (Column(wanted.score, "double", required=False),) if wanted.score else ()
    options = ReadOptions(typed, kept=kept, delimiter=delimiter if name == "csv" else ",", on_range="allow")
    storage = storage_for(path)
    info = storage.head(path)
    assert info is not None, "it was just written"
    if not one["rows"]:
        return
    source, form = Source(storage, info, one["uri"]), FORMATS[name]
    shape = form.inspect(source, options)
    end = shape.rows if name == "parquet" else shape.size_bytes
    for block in form.read(source, shape, Cut(shape.data_start, end or 0), shape.data_start, options):
        if block.rejects is not None and block.rejects.num_rows:
            raise InputRefused(f"{one['uri']} holds rows that cannot be read: somebody changed it")
        yield block.table
