"""Verification: everything a receipt names is read again and compared with what the receipt says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from batch.errors import BatchError, InputChanged, UsageError
from batch.execution import commit, history, records, register
from batch.execution.chunk import ChunkRecord, read_verified, record_from_commit
from batch.execution.ownership import rejects_mark, sha256_of
from batch.formats import format_of
from batch.formats.counting import count_rows
from batch.models import bundle
from batch.storage import ObjectInfo, Source, join, storage_for
from batch.uri import parent

DIFFERENCES = ("differs", "gone")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """input, model, commit, chunk, output, rejects or rows."""
    uri: str
    state: str
    """ok, differs, gone; superseded (a later run's file stands there), cleaned (staged chunks) and moved (a dropped file) are no
    differences."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """Everything that was looked at, in the order of the receipt."""

    run_id: str
    findings: tuple[Finding, ...]

    @property
    def differences(self) -> list[Finding]:
        return [one for one in self.findings if one.state in DIFFERENCES]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"run_id": self.run_id, "ok": not self.differences, "findings": [asdict(one) for one in self.findings]}


def verify(root: str, run: str) -> Verification:
    """Compare what is stored with the receipt of a completed run. Raises `UsageError` for a run that did not complete."""
    receipt = history.find_run(root, run)
    if not receipt["state"].startswith("completed"):
        raise UsageError(f"run {receipt['run_id']} {receipt['state']}: it published nothing to verify")
    folder = join(root, "runs", receipt["job"], receipt["run_id"])
    document = _commit(folder)
    plan = records.load(join(folder, "plan.json")) or {}
    chunks = [record_from_commit(folder, entry) for entry in document.get("chunks", [])]
    findings = [
        *_inputs(receipt, _moves(receipt, plan)),
        *_models(receipt, plan, root),
        *_counts(receipt, chunks),
        *_commits(receipt, document, chunks, folder),
        *_chunks(chunks),
        *_outputs(receipt, document, root),
        *_rejects(receipt, plan, root),
    ]
    return Verification(receipt["run_id"], tuple(findings))


def _commit(folder: str) -> dict[str, Any]:
    """The commit, empty where it is gone or not one of ours."""
    try:
        return commit.load_commit(folder) or {}
    except records.Unreadable:
        return {}


def _inputs(receipt: dict[str, Any], moves: bool) -> Iterator[Finding]:
    """The version that was scored is still the one that can be read."""
    for one in receipt["input"]:
        pin = ObjectInfo(one["uri"], one["size_bytes"], one["etag"], one["version_id"], datetime.now(UTC))
        found = _looked("input", one["uri"], partial(_read_through, pin))
        # A watcher may have moved a dropped file away when it was done.
        is_moved = found.state != "ok" and moves and storage_for(one["uri"]).head(one["uri"]) is None
        yield Finding("input", one["uri"], "moved") if is_moved else found


def _moves(receipt: dict[str, Any], plan: dict[str, Any]) -> bool:
    after = plan.get("config", {}).get("watch", {}).get("after")
    return after == "move" and str(receipt["subject"]).startswith("drop-")


def _read_through(pin: ObjectInfo) -> str:
    sha256_of(pin)
    return ""


def _models(receipt: dict[str, Any], plan: dict[str, Any], root: str) -> Iterator[Finding]:
    for one in receipt["models"]:
        if one["sha256"] is None:  # a shadow whose model could not be found
            continue
        uri = plan.get("models", {}).get(one["variant"], {}).get("uri") or one["uri_given"]
        yield _looked("model", uri, partial(_model, uri, root, one["sha256"]))


def _model(uri: str, root: str, sha256: str) -> str:
    resolved = bundle.resolve(uri, root)
    bundle.read_files(resolved)
    return "" if resolved.sha256 == sha256 else f"model.json has sha256 {resolved.sha256}, the receipt says {sha256}"


def _counts(receipt: dict[str, Any], chunks: list[ChunkRecord]) -> Iterator[Finding]:
    """Rows read = predicted + rejected, in the receipt, in the commit and per input."""
    rows = receipt["rows"]
    sums = {
        "predicted + rejected": rows["predicted"] + rows["rejected"],
        "the inputs": sum(one["rows"] for one in receipt["input"]),
        "the chunks": sum(one.rows_read for one in chunks) if chunks else rows["read"],
        "outputs and rejects": sum(one["rows"] for one in receipt["output"] if one["role"] == "predictions")
        + sum(one["rows"] for one in receipt["rejects"]),
    }
    wrong = [f"{name}: {found}" for name, found in sums.items() if found != rows["read"]]
    yield Finding(
        "rows", "", "differs" if wrong else "ok", f"read: {rows['read']}; {'; '.join(wrong)}" if wrong else ""
    )


def _chunks(chunks: list[ChunkRecord]) -> Iterator[Finding]:
    """The staged chunks, where they are still there: `clean` takes all of a run's, and a retry has some of another run."""
    stored: dict[str, ObjectInfo] = {}
    for home in sorted({parent(one.uri) for one in chunks}):
        mine = [one for one in chunks if parent(one.uri) == home]
        stored |= {info.uri: info for info in storage_for(home).list(home)}
        missing = [one for one in mine if one.uri not in stored]
        if missing and commit.is_cleaned(home.removesuffix("/chunks/")):
            yield Finding("chunk", home, "cleaned", f"{len(missing)} of {len(mine)} staged chunks")
            missing.clear()
        yield from (Finding("chunk", one.uri, "gone") for one in missing)
    for one in chunks:
        if one.uri not in stored:
            continue
        found = read_verified(stored[one.uri])
        same = found is not None and found.sections == one.sections
        yield Finding(
            "chunk", one.uri, "ok" if same else "differs", "" if same else "its bytes are not the committed ones"
        )


def _commits(
    receipt: dict[str, Any], document: dict[str, Any], chunks: list[ChunkRecord], folder: str
) -> Iterator[Finding]:
    """The receipt's ``chunks_sha256`` follow from the commit's digests of its chunks, which `_chunks` compares with the bytes."""
    uri = commit.commit_uri(folder)
    if "outputs" not in document:
        yield Finding("commit", uri, "gone")
        return
    by_index = {one.index: one for one in chunks}
    told = {one["uri"]: one["chunks_sha256"] for one in receipt["output"]}
    found = {
        one["uri"]: commit.chunks_sha256(
            [by_index[index] for index in one["chunks"] if index in by_index], one.get("section", "rows")
        )
        for one in [*document["outputs"], *document.get("shadows", ())]
    }
    wrong = [
        f"the chunks of {name} give {found.get(name)}, the receipt says {told[name]}"
        for name in told
        if found.get(name) != told[name]
    ]
    yield Finding("commit", uri, "differs" if wrong else "ok", "; ".join(wrong))


def _outputs(receipt: dict[str, Any], document: dict[str, Any], root: str) -> Iterator[Finding]:
    delimiter = document.get("write", {}).get("delimiter", ",")
    for one in receipt["output"]:
        yield _published("output", one, one["uri"], receipt, root, delimiter)


def _rejects(receipt: dict[str, Any], plan: dict[str, Any], root: str) -> Iterator[Finding]:
    delimiter = plan.get("config", {}).get("input", {}).get("delimiter", ",")
    marks = {one["uri"]: f"{receipt['run_id']}:{one['chunks_sha256']}" for one in receipt["output"]}
    for one in receipt["rejects"]:
        found = _published("rejects", one, one["output"], receipt, root, delimiter)
        if found.state == "differs" and (info := storage_for(one["uri"]).head(one["uri"])) is not None:
            # A run over budget writes its rejects file and no register entry.
            mark = rejects_mark(root, receipt["job"], info)
            if mark and mark != marks[one["output"]]:
                found = Finding("rejects", one["uri"], "superseded", f"by run {mark.partition(':')[0]}")
        yield found


def _published(
    what: str, one: dict[str, Any], output: str, receipt: dict[str, Any], root: str, delimiter: str
) -> Finding:
    """A published file, unless a later run's stands there."""
    ruling = register.newest(root, output)
    if ruling is not None and ruling.run_id != receipt["run_id"]:
        return Finding(what, one["uri"], "superseded", f"by run {ruling.run_id}")
    return _looked(what, one["uri"], partial(_difference, one, delimiter))


def _difference(one: dict[str, Any], delimiter: str) -> str:
    info = _standing(one["uri"])
    if (digest := sha256_of(info)) != one["sha256"]:
        return f"has sha256 {digest} ({info.size_bytes} bytes), the receipt says {one['sha256']} ({one['size_bytes']} bytes)"
    return _row_difference(info, one["rows"], delimiter)


def _row_difference(info: ObjectInfo, rows: int, delimiter: str) -> str:
    format_name, compression = format_of(info.uri)
    found = count_rows(Source(storage_for(info.uri), info), format_name or "csv", compression, delimiter)
    return "" if found == rows else f"holds {found} rows, the receipt says {rows}"


class _Gone(Exception):
    """There is no such object."""


def _standing(uri: str) -> ObjectInfo:
    info = storage_for(uri).head(uri)
    if info is None:
        raise _Gone
    return info


def _looked(what: str, uri: str, look: Callable[[], str]) -> Finding:
    """What `look` found to be different, as a finding; only a store that fails ends the verification."""
    try:
        difference = look()
    except _Gone:
        return Finding(what, uri, "gone")
    except InputChanged as error:
        return Finding(what, uri, "differs", error.message)
    except BatchError as error:
        if error.exit_code in {69, 77}:
            raise
        return Finding(what, uri, "differs", error.message)
    return Finding(what, uri, "differs" if difference else "ok", difference)
