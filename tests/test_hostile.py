"""Hostile and broken model files: refused with exit code 4, naming what was refused, and a canary proves that no code ran."""

from __future__ import annotations

import hashlib
import io
import json
import operator
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from skops.io._audit import NODE_TYPE_MAPPING
from skops.io._protocol import PROTOCOL

import batch
from batch.errors import GoldenRowsDiffer, ModelChanged, ModelNotTrusted, ModelRefused
from batch.models import bundle, golden, quarantine, trust
from tests import children
from tests.run_cases import Bench, encode, estimator, register, rows


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

    def __init__(self, registered: Path, folder: Path) -> None:
        self.canary = folder / "canary"
        self.folder = Path(shutil.copytree(registered, folder / "elsewhere" / "models" / "tiny")) / "1"
        self.card = json.loads((self.folder / "model.json").read_text())
        self.bench = Bench(str(folder / "root"), str(self.folder), folder)
        self.bench.put("in.csv", encode(rows(20), "csv"))

    def describe(self, **card: Any) -> None:
        """Change the card."""
        self.card |= card
        (self.folder / "model.json").write_text(json.dumps(self.card))

    def put(self, name: str, body: bytes, **card: Any) -> str:
        """Put a file in the bundle with the digest that belongs to it; gives the digest."""
        (self.folder / name).write_bytes(body)
        digest = hashlib.sha256(body).hexdigest()
        self.card["files"][name] = {"sha256": digest, "size_bytes": len(body)}
        self.describe(**card)
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


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with one version and an alias."""
    return Path(register(str(tmp_path_factory.mktemp("registered")))).parent


@pytest.fixture
def tried(registered: Path, tmp_path: Path) -> Victim:
    """Its bundle is tried in a process of its own first."""
    return Victim(registered, tmp_path)


@pytest.fixture
def victim(tried: Victim, monkeypatch: pytest.MonkeyPatch) -> Victim:
    """Its bundle is loaded in this process at once: what is refused here is refused by the loader itself, wherever it runs."""
    monkeypatch.setattr(quarantine, "_try_apart", lambda *_: None)
    monkeypatch.setattr(quarantine, "_proven", set())
    return tried


# --- what is tried, and when


def test_a_good_bundle_from_elsewhere_is_tried_once(tried: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, and that it passed is recorded under the root, where another process finds it."""
    count: list[str] = []
    real = quarantine._try_apart
    monkeypatch.setattr(quarantine, "_proven", set())
    monkeypatch.setattr(quarantine, "_try_apart", lambda one, pins: (count.append(one.uri), real(one, pins)))
    tried.bench.run("in.csv", "out.csv")
    quarantine._proven.clear()  # as in another process
    tried.bench.run("in.csv", "two.csv")
    assert count == [str(tried.folder) + "/"]
    assert len([name for name in tried.bench.names() if "/probe/models/" in name]) == 1


def test_a_registered_version_is_not_tried_again(tried: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by its alias or by its folder, it costs nothing; a folder beside it is not one."""
    monkeypatch.setattr(quarantine, "prove", lambda *_, **__: pytest.fail("it was tried"))
    root = str(tried.folder.parents[2])
    for reference in ("models:/tiny@champion", str(tried.folder)):
        assert bundle.load(bundle.resolve(reference, root)).warnings == []
    aside = tried.folder.rename(tried.folder.with_name("1-copy"))
    assert not bundle.resolve(str(aside), root).registered


def test_check_tries_and_records_nothing(victim: Victim) -> None:
    """`check` finds out what a run would say, and leaves no trace."""
    from batch.execution.check import check

    assert check(victim.bench.job("in.csv", "out.csv"))["ok"]
    assert not [name for name in victim.bench.names() if "/probe/models/" in name]


def test_a_child_says_what_the_loader_says(tried: Victim) -> None:
    """Class, message and hint come back from the other process."""
    body = skops.io.dumps(FunctionTransformer(partial(os.system, f"touch {tried.canary}")))
    tried.put(bundle.SKOPS, body)
    error = tried.refused()
    assert isinstance(error, ModelNotTrusted)
    assert "the model names 1 type(s) that are not on the allow-list: posix.system" in error.message
    assert "best_estimator_" in error.hint


# --- pickles


def test_an_unpinned_pickle_never_runs(victim: Victim) -> None:
    """Not as a joblib file, not in a file that calls itself skops."""
    digest = victim.put_pickle(Runs(f"touch {victim.canary}"))
    error = victim.refused(trust__pickle_sha256=["0" * 64])
    assert isinstance(error, ModelNotTrusted)
    assert digest in error.hint
    victim.put(bundle.SKOPS, pickle.dumps(Runs(f"touch {victim.canary}")), model_file=bundle.SKOPS)
    assert "the model file cannot be read" in victim.refused(trust__pickle_sha256=[digest]).message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("[bytearray(1 << 28) for _ in range(64)]", "needs more than 1 GiB of memory, which is what it is tried with"),
        ("any(None for _ in iter(int, 1))", "was not loaded and replayed within 5 s"),
        ("__import__('os').system('sleep 300')", "was not loaded and replayed within 5 s"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "killed by signal 11 (SIGSEGV)"),
        ("__import__('os')._exit(0)", "ended the process that tried it, with a limit of 1 GiB of memory: exit code 0"),
        ("__import__('module_that_is_not_there')", "No module named 'module_that_is_not_there'"),
    ],
    ids=["memory", "hang", "hanging-child", "crash", "exit", "import"],
)
@pytest.mark.slow
def test_a_pinned_pickle_is_tried_first(tried: Victim, code: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pin says that its code may run; that it takes all memory, hangs or crashes costs a child, not the run's process."""
    if "within 5 s" in said:
        monkeypatch.setattr(quarantine, "SECONDS", 5.0)
    monkeypatch.setattr(quarantine, "BASE_BYTES", 1 << 30)
    digest = tried.put_pickle(Evaluates(code))
    assert said in tried.refused(trust__pickle_sha256=[digest]).message


@pytest.mark.slow
def test_a_trial_ends_with_the_run_that_asked(tried: Victim) -> None:
    """Kill -9 of a run leaves nothing behind that takes a core and memory: runs that start again would drown in old trials."""
    code = f"(open({str(tried.canary)!r}, 'w').write(str(__import__('os').getpid())), __import__('time').sleep(300))"
    digest = tried.put_pickle(Evaluates(code))
    tried.bench.job("in.csv", "out.csv")
    run = children.start(str(tried.bench.folder / "weekly.toml"), {}, set={"trust.pickle_sha256": [digest]})
    _until(lambda: tried.canary.exists() and tried.canary.read_text() != "", "the trial began")
    trial = Path("/proc", tried.canary.read_text())
    assert trial.exists()
    run.kill()
    run.join()
    _until(lambda: not trial.exists(), "the trial ended")


def _until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.05)


# --- skops files


def rewritten(body: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """A skops file with another schema."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as archive, zipfile.ZipFile(out, "w") as made:
        for entry in archive.infolist():
            data = archive.read(entry)
            made.writestr(entry, json.dumps(change(json.loads(data))) if entry.filename == "schema.json" else data)
    return out.getvalue()


def test_foreign_types_in_skops_are_named(victim: Victim) -> None:
    """The function inside a partial is judged by its own name, a method by that of its object, before anything is made."""
    shell, code = f"touch {victim.canary}", f"open({str(victim.canary)!r}, 'w')"
    for hostile, name in (
        (partial(os.system, shell), "posix.system"),
        (partial(eval, code), "builtins.eval"),
        (partial(subprocess.call, shell, shell=True), "subprocess.call"),
        (operator.methodcaller("touch"), "operator.methodcaller"),
        (victim.canary.touch, r"pathlib.*touch"),
    ):
        with pytest.raises(ModelNotTrusted, match=rf"not on the allow-list: .*{name}"):
            trust.load_skops(skops.io.dumps(FunctionTransformer(hostile)))
    victim.put(bundle.SKOPS, skops.io.dumps(FunctionTransformer(partial(os.system, shell))))
    assert "not on the allow-list: posix.system" in victim.refused().message


HARMFUL = (("os", "system"), ("builtins", "eval"), ("hostile_module", "anything"), ("operator", "methodcaller"))


@pytest.mark.parametrize("protocol", range(PROTOCOL + 1))
@pytest.mark.parametrize("loader", sorted({name for name, _ in NODE_TYPE_MAPPING}))
def test_forged_nodes_reach_no_code(
    tmp_path: Path, loader: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema that no `dumps` wrote: whatever kind of node names a function or module that does harm, nothing runs."""
    canary, good = tmp_path / "canary", skops.io.dumps(FunctionTransformer())
    (tmp_path / "hostile_module.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    value = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(str(canary))}
    args = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [value]}
    for module, name in HARMFUL:
        named = {"__class__": name, "__module__": module}
        func = {**named, "__loader__": "FunctionNode", "content": {"module_path": module, "function": name}}
        parts = {"func": func, "args": args, "kwds": value, "namespace": value, "obj": func}
        for content in (
            args,
            [func],
            parts,
            {"main": args, "default_factory": func},
            {"module_path": module, "function": name},
        ):
            node = {
                **named,
                "__loader__": loader,
                "content": content,
                "attrs": args,
                "key_types": args,
                "type": "json",
                "shape": args,
                "__reduce__": {"args": args},
                "protocol": protocol,
            }
            if loader in {"JsonNode", "SliceNode", "CachedNode"}:  # these make text, and slices, and nothing
                continue
            with pytest.raises(ModelRefused):
                trust.load_skops(rewritten(good, lambda _, node=node: node))
    assert not canary.exists()


ROWS = np.random.default_rng(7).normal(size=(200, 3))
LABELS = (ROWS[:, 0] > 0) ^ (ROWS[:, 1] > 0)


def tree_with(change: Callable[[Any], None]) -> bytes:
    """A decision tree whose nodes were altered by hand, as skops saves it."""
    model = DecisionTreeClassifier(max_depth=3).fit(ROWS, LABELS)
    make, args, state = model.tree_.__reduce__()
    change(state["nodes"])
    altered = make(*args)
    altered.__setstate__(state)
    model.tree_ = altered
    return bytes(skops.io.dumps(model))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("left_child", 0, "node 0 of 15 leads to node 0"),  # a prediction would never end
        ("right_child", 10**9, "node 0 of 15 leads to node 1000000000"),  # … would crash
        ("feature", 3, r"node 0 tests feature 3 of 3 \(0-based\)"),  # … would read memory of others
    ],
)
def test_a_tree_that_leads_nowhere_is_refused(column: str, value: int, said: str) -> None:
    """Its types are allowed, and scikit-learn follows its numbers unchecked."""

    def change(nodes: Any) -> None:
        nodes[column][0] = value

    with pytest.raises(ModelRefused, match=said.replace("15", r"\d+")):
        trust.load_skops(tree_with(change))
    trust.load_skops(tree_with(lambda _: None))


def test_a_boosted_tree_that_leads_nowhere_is_refused() -> None:
    """The same for the nodes of a histogram-based gradient boosting."""
    model = HistGradientBoostingClassifier(max_iter=2).fit(ROWS, LABELS)
    trust.load_skops(skops.io.dumps(model))
    model._predictors[1][0].nodes["left"][0] = 10**8
    with pytest.raises(ModelRefused, match="leads to node 100000000"):
        trust.load_skops(skops.io.dumps(model))


@pytest.mark.slow
def test_a_schema_that_takes_for_ever_to_judge_hits_the_time_limit(
    tried: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of lists of the same lists: a kilobyte with more paths through it than anybody can walk."""
    node: dict[str, Any] = {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": "1",
        "__id__": 1,
    }
    for number in range(2, 40):
        again = {"__id__": number - 1}
        node = {
            "__class__": "list",
            "__module__": "builtins",
            "__loader__": "ListNode",
            "__id__": number,
            "content": [node, *[again] * 9],
        }
    tried.put(bundle.SKOPS, rewritten(skops.io.dumps(LogisticRegression()), lambda _: {**node, "protocol": PROTOCOL}))
    monkeypatch.setattr(quarantine, "SECONDS", 6.0)
    assert "was not loaded and replayed within 6 s" in tried.refused().message


@pytest.mark.parametrize("change", [lambda body: body[:1000], lambda body: body[:-30], lambda _: b""])
def test_a_truncated_model_is_refused(victim: Victim, change: Callable[[bytes], bytes]) -> None:
    """With a digest that fits, and without."""
    body = change((victim.folder / bundle.SKOPS).read_bytes())
    (victim.folder / bundle.SKOPS).write_bytes(body)
    assert isinstance(victim.refused(), ModelChanged)
    victim.put(bundle.SKOPS, body)
    assert "the model file cannot be read" in victim.refused().message


# --- sizes


def test_oversized_files_are_refused_unread(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the card's own word, by the object's size, and the card itself."""
    files, model = victim.card["files"], victim.folder / bundle.SKOPS
    victim.describe(files={name: {**file, "size_bytes": 1 << 40} for name, file in files.items()})
    assert f"more than the limit of {2 << 30}" in victim.refused().message
    balanced = {
        **files,
        "a": {"sha256": "0" * 64, "size_bytes": 1 << 40},
        "b": {"sha256": "0" * 64, "size_bytes": -(1 << 40)},
    }
    victim.describe(files=balanced)
    assert "digest or size of 'b'" in victim.refused().message
    victim.describe(files=files)
    os.truncate(model, 1 << 34)  # sparse: it takes no disk
    assert f"has {1 << 34} bytes, but was registered with" in victim.refused().message
    os.truncate(victim.folder / "model.json", 1 << 34)
    assert f"holds {1 << 34} bytes, more than the limit of {16 << 20}" in victim.refused().message


def test_a_small_zip_that_unpacks_to_much_is_refused(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its table of contents."""
    monkeypatch.setattr(trust, "MAX_MODEL_BYTES", 1 << 26)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", bytes((1 << 26) + 1))
    victim.put(bundle.SKOPS, packed.getvalue())
    assert "unpacks to 67108865 bytes, more than the limit of 67108864" in victim.refused().message


@pytest.mark.slow
def test_arrays_that_are_read_again_and_again_hit_the_memory_limit(
    tried: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node holds a copy of the file that it names: one file of 64 MiB, small as it is stored, is named a hundred times."""
    packed = io.BytesIO()
    node = {
        "__class__": "ndarray",
        "__module__": "numpy",
        "__loader__": "NdArrayNode",
        "type": "numpy",
        "file": "0.npy",
    }
    schema = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [node] * 100}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", bytes(64 << 20))
        archive.writestr("schema.json", json.dumps({**schema, "protocol": PROTOCOL}))
    tried.put(bundle.SKOPS, packed.getvalue())
    assert "of memory, which is what it is tried with" in tried.refused().message


# --- golden rows


def test_a_golden_table_of_many_rows_is_refused_undecoded(victim: Victim) -> None:
    """A few kilobytes that decode to gigabytes."""
    table, bomb = pq.read_table(victim.folder / bundle.GOLDEN), io.BytesIO()
    with pq.ParquetWriter(bomb, table.schema, compression="zstd") as writer:
        writer.write_table(table.take(pa.array([0] * 1_000_000)))
    victim.put(bundle.GOLDEN, bomb.getvalue())
    assert "golden.parquet holds 1000000 rows, more than the limit of 50" in victim.refused().message


@pytest.mark.slow
def test_a_golden_cell_that_unpacks_to_much_hits_the_memory_limit(
    tried: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text of 256 MiB in each of fifty rows, stored once and packed."""
    table, bomb = pq.read_table(tried.folder / bundle.GOLDEN), io.BytesIO()
    place = table.column_names.index("product")
    large = table.set_column(
        place, "product", pa.array(["x" * (1 << 28)]).dictionary_encode().take(pa.array([0] * table.num_rows))
    )
    pq.write_table(large, bomb, compression="zstd", store_schema=False)
    assert len(bomb.getvalue()) < 1 << 20
    tried.put(bundle.GOLDEN, bomb.getvalue())
    assert "memory" in tried.refused().message


@pytest.mark.parametrize("body", [b"", b"PAR1", b"PAR1" + bytes(1000) + b"PAR1", b"age,spend\n1,2\n"])
def test_a_golden_table_that_is_not_parquet_is_refused(victim: Victim, body: bytes) -> None:
    """Whatever pyarrow makes of it."""
    victim.put(bundle.GOLDEN, body)
    assert "golden.parquet cannot be read" in victim.refused().message


def test_golden_rows_that_were_changed_are_refused(victim: Victim) -> None:
    """Without its digest, the file; with it, the model does not give what the rows say. Both library versions are told."""
    table = pq.read_table(victim.folder / bundle.GOLDEN)
    name = golden.OUTPUT_PREFIX + "probability"
    place = table.column_names.index(name)
    body = golden.to_bytes(table.set_column(place, name, pa.array([0.5] * table.num_rows)))
    (victim.folder / bundle.GOLDEN).write_bytes(body)
    assert isinstance(victim.refused(), ModelChanged)
    victim.put(bundle.GOLDEN, body, libraries={**victim.card["libraries"], "scikit-learn": "1.4.2"})
    error = victim.refused()
    assert isinstance(error, GoldenRowsDiffer)
    assert "gives probability = " in error.message
    assert "scikit-learn 1.4.2 then, " in error.message


def test_a_pipeline_that_lacks_a_later_parameter_loads(victim: Victim) -> None:
    """One that scikit-learn before 1.6 saved has no `transform_input`; it predicts as before, and a warning names both versions."""
    model = estimator()
    del model.transform_input
    libraries = {**victim.card["libraries"], "scikit-learn": "1.4.2"}
    victim.put(bundle.SKOPS, skops.io.dumps(model), libraries=libraries)
    told: list[str] = []
    receipt = batch.run(victim.bench.job("in.csv", "out.csv"), notice=told.append)
    assert receipt.rows.predicted == 20
    assert ["saved with scikit-learn 1.4.2, running" in line for line in told] == [True]


# --- cards

OUTSIDE = {"sha256": "0" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_file": "../../model.skops"}, "model_file '../../model.skops' is none of its files"),
        ({"files": {"../x": OUTSIDE}}, "file name '../x'"),
        ({"files": {"/etc/passwd": OUTSIDE}}, "file name '/etc/passwd'"),
        ({"files": {"model.skops": {"sha256": "0" * 64, "size_bytes": float("inf")}}}, "Infinity is no number"),
        ({"files": {"model.skops": {"sha256": "0" * 64, "size_bytes": True}}}, "digest or size of"),
        ({"files": []}, "is not a model card"),
        ({"name": "../../root"}, "model name '../../root' is not allowed"),
        ({"version": 10**30 * -1}, "version"),
        ({"golden": {"spread": {"probability": float("nan")}}}, "NaN is no number"),
        ({"golden": {"spread": {"probability": 10**400}}}, "the spread in model.json cannot be read"),
        ({"golden": {"spread": [1]}}, "the spread in model.json cannot be read"),
        ({"golden": 7}, "does not fit together"),
        ({"signature": None}, "signature in model.json cannot be read"),
        ({"outputs": None}, "outputs in model.json cannot be read"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(victim: Victim, change: dict[str, Any], said: str) -> None:
    """And leads nowhere else."""
    victim.describe(**change)
    assert said in victim.refused().message


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "null", "\x00", '{"format": 1e999}'])
def test_a_card_that_is_no_card_is_refused(victim: Victim, text: str) -> None:
    """Also one that is nested deeper than anybody reads."""
    (victim.folder / "model.json").write_text(text)
    assert "model.json" in victim.refused().message


def test_a_spread_of_infinity_by_another_spelling_is_refused(victim: Victim) -> None:
    """1e999 is a number for JSON; with it every output would be near enough."""
    text = json.dumps({**victim.card, "golden": {"spread": {"probability": "SPREAD"}}})
    (victim.folder / "model.json").write_text(text.replace('"SPREAD"', "1e999"))
    assert "the spread in model.json cannot be read" in victim.refused().message


def test_a_registered_version_that_was_changed(victim: Victim) -> None:
    """Digests are checked in the registry as well, before anything is parsed."""
    root = victim.bench.root
    register(root)
    model = Path(root, "models", "tiny", "1", bundle.SKOPS)
    model.write_bytes(pickle.dumps(Runs(f"touch {victim.canary}")))
    victim.bench.model = "models:/tiny/1"
    assert "but was registered with" in victim.refused().message


# --- the program


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda one: one.put_pickle(Runs(f"touch {one.canary}")),
            "error: the model is a pickle, which can run any code",
        ),
        (
            lambda one: one.put(
                bundle.SKOPS, skops.io.dumps(FunctionTransformer(partial(os.system, f"touch {one.canary}")))
            ),
            "that are not on the allow-list: posix.system",
        ),
        (lambda one: one.put(bundle.GOLDEN, b"PAR1"), "error: golden.parquet cannot be read"),
    ],
    ids=["pickle", "skops", "golden"],
)
@pytest.mark.slow
def test_the_program_says_so(tried: Victim, spoil: Callable[[Victim], Any], said: str) -> None:
    """Exit code 4, one error line and a hint, no traceback, and no code ran."""
    spoil(tried)
    tried.bench.job("in.csv", "out.csv")
    command = [sys.executable, "-m", "batch", "run", str(tried.bench.folder / "weekly.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not tried.canary.exists()
