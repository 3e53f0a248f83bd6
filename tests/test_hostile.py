"""Hostile and broken model files: refused with exit code 4, naming what was refused, and a canary proves that no code ran."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

from batch.errors import ModelNotTrusted, ModelRefused
from batch.models import bundle, quarantine, trust
from tests.run_cases import Bench, encode, register, rows


class Runs:
    """Unpickles by running a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


class Evaluates:
    """Unpickles by evaluating Python."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (self.code,)


class Victim:
    """A bundle that lies outside of any registry, to be spoilt, and a job that uses it."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary"
        self.folder = Path(register(str(folder / "elsewhere")))
        self.bench = Bench(str(folder / "root"), str(self.folder), folder)
        self.bench.put("in.csv", encode(rows(20), "csv"))

    def put(self, name: str, body: bytes, **card: Any) -> str:
        """Put a file in the bundle with the digest that belongs to it; gives the digest."""
        (self.folder / name).write_bytes(body)
        known, digest = json.loads((self.folder / "model.json").read_text()), hashlib.sha256(body).hexdigest()
        known["files"][name] = {"sha256": digest, "size_bytes": len(body)}
        (self.folder / "model.json").write_text(json.dumps(known | card))
        return digest

    def put_pickle(self, thing: Any) -> str:
        return self.put(bundle.JOBLIB, pickle.dumps(thing), model_file=bundle.JOBLIB)

    def refused(self, **settings: Any) -> ModelRefused:
        """What a run of the job says; nothing is published, and no code ran."""
        with pytest.raises(ModelRefused) as caught:
            self.bench.run("in.csv", "out.csv", **settings)
        assert (caught.value.exit_code, self.bench.get("out.csv")) == (4, None)
        assert not self.canary.exists()
        return caught.value


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


def test_a_good_bundle_from_elsewhere_is_tried_once(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, and that it passed is recorded under the root; `check` records nothing."""
    from batch.execution.check import check

    tried: list[str] = []
    real = quarantine._try_apart
    monkeypatch.setattr(quarantine, "_proven", set())
    monkeypatch.setattr(quarantine, "_try_apart", lambda one, pins: (tried.append(one.uri), real(one, pins)))
    job = victim.bench.job("in.csv", "out.csv")
    assert check(job)["ok"]
    assert not [name for name in victim.bench.names() if "/probe/models/" in name]
    quarantine._proven.clear()
    victim.bench.run("in.csv", "out.csv")
    quarantine._proven.clear()  # as in another process
    victim.bench.run("in.csv", "two.csv")
    assert len(tried) == 2
    assert len([name for name in victim.bench.names() if "/probe/models/" in name]) == 1


def test_an_unpinned_pickle_never_runs(victim: Victim) -> None:
    """Not as a joblib file, not in a file that calls itself skops, not even in the child."""
    digest = victim.put_pickle(Runs(f"touch {victim.canary}"))
    error = victim.refused()
    assert isinstance(error, ModelNotTrusted)
    assert digest in error.hint
    victim.put(bundle.SKOPS, pickle.dumps(Runs(f"touch {victim.canary}")), model_file=bundle.SKOPS)
    assert "the model file cannot be read" in victim.refused().message


def test_foreign_types_in_skops_are_named(victim: Victim) -> None:
    """The function inside a partial is judged by its own name, before anything is made."""
    shell, code = f"touch {victim.canary}", f"open({str(victim.canary)!r}, 'w')"
    for hostile in (partial(os.system, shell), partial(eval, code), partial(subprocess.call, shell, shell=True)):
        body = skops.io.dumps(FunctionTransformer(hostile))
        with pytest.raises(ModelNotTrusted, match="not on the allow-list: "):
            trust.load_skops(body)
    victim.put(bundle.SKOPS, body)
    assert "not on the allow-list: subprocess.call" in victim.refused().message


def rewritten(body: bytes, change: Any) -> bytes:
    """A skops file with another schema."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as archive, zipfile.ZipFile(out, "w") as made:
        for entry in archive.infolist():
            data = archive.read(entry)
            made.writestr(entry, json.dumps(change(json.loads(data))) if entry.filename == "schema.json" else data)
    return out.getvalue()


@pytest.mark.parametrize(
    "loader", ["MethodNode", "FunctionNode", "TypeNode", "OperatorFuncNode", "ReduceNode", "PartialNode"]
)
def test_forged_nodes_reach_no_code(tmp_path: Path, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that no `dumps` wrote: whatever node names a function or a module that does harm, it is refused, and nothing runs."""
    canary, good = tmp_path / "canary", skops.io.dumps(FunctionTransformer())
    (tmp_path / "hostile_module.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, name in (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("hostile_module", "anything")):
        content = {"module_path": module, "function": name}
        node = {"__class__": name, "__module__": module, "__loader__": loader, "__id__": 1, "content": content}
        with pytest.raises(ModelRefused):
            trust.load_skops(rewritten(good, lambda schema, node=node: {**schema, **node}))
    assert not canary.exists()


@pytest.mark.slow
def test_oversized_files_are_refused_unread(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the card's own word, by the object's size, and a zip by its table of contents."""
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", 200_000)
    card = json.loads((victim.folder / "model.json").read_text())
    huge = {name: {**file, "size_bytes": 1 << 40} for name, file in card["files"].items()}
    (victim.folder / "model.json").write_text(json.dumps(card | {"files": huge}))
    assert "more than the limit of 200000" in victim.refused().message
    (victim.folder / "model.json").write_text(json.dumps(card))
    os.truncate(victim.folder / bundle.SKOPS, 1 << 34)  # sparse: it takes no disk
    assert f"has {1 << 34} bytes, but was registered with" in victim.refused().message
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("schema.json", "w", force_zip64=True) as entry,
    ):
        for _ in range(33):
            entry.write(bytes(64 << 20))
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", 1 << 31)
    victim.put(bundle.SKOPS, packed.getvalue())
    assert "unpacks to 2214592512 bytes, more than the limit of 2147483648" in victim.refused().message


@pytest.mark.slow
def test_a_golden_table_that_unpacks_to_much_hits_the_memory_limit(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the child: a few kilobytes that decode to gigabytes cost this process nothing."""
    monkeypatch.setattr(quarantine, "BASE_BYTES", 1 << 30)
    golden = pq.read_table(victim.folder / "golden.parquet")
    row = golden.slice(0, 1)
    bomb = io.BytesIO()
    with pq.ParquetWriter(bomb, golden.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(row.take(pa.array([0] * 2_000_000)))
    victim.put("golden.parquet", bomb.getvalue())
    said = victim.refused().message
    assert "of memory" in said or "golden" in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("[bytearray(1 << 28) for _ in range(64)]", "of memory"),
        ("(lambda: [None for _ in iter(int, 1)])()", "was not loaded and replayed within 5 s"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "killed by signal 11"),
        ("__import__('os')._exit(0)", "ended the process that tried it"),
        ("__import__('module_that_is_not_there')", "module_that_is_not_there"),
    ],
    ids=["memory", "hang", "crash", "exit", "import"],
)
@pytest.mark.slow
def test_a_pinned_pickle_is_tried_first(victim: Victim, code: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pin says that its code may run; that it takes all memory, hangs or crashes costs a child, not the run's process."""
    if "within 5 s" in said:
        monkeypatch.setattr(quarantine, "SECONDS", 5.0)
    monkeypatch.setattr(quarantine, "BASE_BYTES", 1 << 30)
    digest = victim.put_pickle(Evaluates(code))
    assert said in victim.refused(trust__pickle_sha256=[digest]).message


@pytest.mark.parametrize(
    "change", [{"model_file": "../../model.skops"}, {"files": {"../x": {"sha256": "0" * 64, "size_bytes": 1}}}]
)
def test_a_card_leads_nowhere_else(victim: Victim, change: dict[str, Any]) -> None:
    card = json.loads((victim.folder / "model.json").read_text())
    (victim.folder / "model.json").write_text(json.dumps(card | change))
    victim.refused()


def test_a_registered_version_that_was_changed(victim: Victim) -> None:
    """Digests are checked in the registry as well, before anything is parsed."""
    root = victim.bench.root
    register(root)
    model = Path(root, "models", "tiny", "1", bundle.SKOPS)
    model.write_bytes(pickle.dumps(Runs(f"touch {victim.canary}")))
    victim.bench.model = "models:/tiny/1"
    assert "but was registered with" in victim.refused().message


@pytest.mark.slow
def test_the_program_says_so(victim: Victim) -> None:
    """Exit code 4, one error line and a hint, no traceback, and no code ran."""
    victim.put_pickle(Runs(f"touch {victim.canary}"))
    victim.bench.job("in.csv", "out.csv")
    command = [sys.executable, "-m", "batch", "run", str(victim.bench.folder / "weekly.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "error: the model is a pickle, which can run any code when it is loaded, and its digest " in done.stderr
    assert "Traceback" not in done.stderr
    assert not victim.canary.exists()
