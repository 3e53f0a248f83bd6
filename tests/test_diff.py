"""`diff`: what two runs say differently of the same customers, joined by id in bounded memory."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression

import batch
from batch.cli import program
from batch.errors import InputRefused, UsageError
from batch.execution.clean import clean
from batch.formats import FORMATS, Cut, ReadOptions
from batch.monitor import codes, reading, text
from batch.monitor import shift as shifts
from batch.monitor.diff import diff
from batch.monitor.join import Spill, join
from batch.monitor.shift import Shift
from batch.storage import Source, storage_for
from tests.run_cases import Bench, encode, register, rows

ids = st.lists(st.integers(0, 40) | st.none(), max_size=60)


@given(left=ids, right=ids, parts=st.integers(1, 7))
def test_the_join_is_an_inner_join(left: list[int | None], right: list[int | None], parts: int) -> None:
    """However many parts, it pairs exactly the ids that stand once on both sides, and tells of all other rows."""
    with TemporaryDirectory() as folder:
        sides = []
        for name, side in (("left", left), ("right", right)):
            spill = Spill(folder, name, [("row", "<i8")], parts)
            for start in range(0, len(side), 7):
                piece = [None if one is None else str(one) for one in side[start : start + 7]]
                spill.add(pa.array(piece, pa.string()), {"row": np.arange(start, start + len(piece))})
            sides.append(spill)
        found = [*join(*sides)]
    once = [
        {one: row for row, one in enumerate(side) if one is not None and side.count(one) == 1} for side in (left, right)
    ]
    pairs = {(int(a), int(b)) for part in found for a, b in zip(part.left["row"], part.right["row"], strict=True)}
    assert pairs == {(once[0][one], once[1][one]) for one in once[0].keys() & once[1].keys()}
    assert sum(len(part.left) for part in found) == len(pairs)
    for side, mine, alone, again in (
        (left, once[0], [part.only_left for part in found], sum(part.repeated_left for part in found)),
        (right, once[1], [part.only_right for part in found], sum(part.repeated_right for part in found)),
    ):
        assert sum(map(len, alone)) == len(mine) - len(pairs)
        assert again == sum(one is not None and side.count(one) > 1 for one in side)


@pytest.fixture
def weeks(bench: Bench) -> tuple[Bench, pd.DataFrame, pd.DataFrame, list[str]]:
    """Two weeks: some customers left, some are new, one stands there twice, and another model scores the second."""
    first, second = rows(400).iloc[:380], rows(400).iloc[20:].sample(frac=1, random_state=1)
    second = pd.concat([second, second.iloc[:1]])
    root, again = bench.root, register(bench.root, 0.05)
    runs = []
    for name, frame, model in (("one.csv", first, f"{root}/models/tiny/1/"), ("two.jsonl", second, again)):
        bench.put(name, encode(frame, name.rsplit(".", 1)[-1]))
        runs.append(bench.run(name, f"out-{name}", run__chunk_bytes=5000, model=model).run_id)
    return bench, first, second, runs


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    root = str(tmp_path / "root")
    return Bench(root, register(root), tmp_path)


def test_what_changed_between_two_weeks(weeks: tuple[Bench, pd.DataFrame, pd.DataFrame, list[str]]) -> None:
    """Against pandas: rows, shift, flips, and each group's; a csv and a jsonl run are compared by the text of the id."""
    bench, _, second, runs = weeks
    found = diff(bench.root, *runs, group_by="product")
    one, two = (pd.DataFrame(bench.records(name)) for name in ("out-one.csv", "out-two.jsonl"))
    twice = second.iloc[0]["customer_id"]
    both = one[one["customer_id"] != twice].merge(two, on="customer_id")
    change = both["probability_y"].astype(float) - both["probability_x"].astype(float)
    flips = both["prediction_x"] != both["prediction_y"]
    added, gone = 20, 20 + (1 if twice in set(one["customer_id"]) else 0)
    assert found["rows"] == {
        "both": len(both),
        "changed": len(both),
        "added": added,
        "gone": gone,
        "repeated": 2,
        "without_id": 0,
    }
    assert found["agreement"] == pytest.approx(1 - flips.mean())
    assert found["score_shift"]["mean"] == pytest.approx(change.mean())
    assert found["score_shift"]["mean_absolute"] == pytest.approx(change.abs().mean())
    assert found["score_shift"]["largest"] == pytest.approx(change.abs().max())
    assert found["score_shift"]["quantiles"]["0.5"] == pytest.approx(change.median())
    assert sum(one["rows"] for one in found["flips"]) == flips.sum()
    for group in found["groups"]:
        mine = both["product_y"] == group["group"]
        assert (group["pairs"], group["flips"]) == (mine.sum(), flips[mine].sum())
        assert group["mean_shift"] == pytest.approx(change[mine].mean())
        assert group["largest_shift"] == pytest.approx(change[mine].abs().max())
        assert group["quantiles"]["0.5"] == pytest.approx(change[mine].median())
        assert sum(kind["rows"] for kind in group["flips_by_kind"]) == group["flips"]
    assert sum(group["added"] for group in found["groups"]) == added
    assert sum(group["gone"] for group in found["groups"]) == gone
    assert [one["models"] for one in found["runs"]] == [["tiny/1"], ["tiny/2"]]


def test_a_run_is_no_other_than_itself(weeks: tuple[Bench, pd.DataFrame, pd.DataFrame, list[str]]) -> None:
    bench, first, _, runs = weeks
    found = diff(bench.root, runs[0], runs[0])
    assert found["rows"] == {"both": len(first), "changed": 0, "added": 0, "gone": 0, "repeated": 0, "without_id": 0}
    assert (found["flips"], found["agreement"], found["score_shift"]["largest"]) == ([], 1.0, 0.0)


def test_the_run_counts_and_not_the_key(weeks: tuple[Bench, pd.DataFrame, pd.DataFrame, list[str]]) -> None:
    """A deleted output changes nothing; without the staged chunks the file must still be the run's own."""
    bench, *_, runs = weeks
    before = diff(bench.root, *runs)
    moved = bench.get("out-one.csv")
    storage_for(bench.root).delete(f"{bench.root}/out-one.csv")
    assert diff(bench.root, *runs) == before
    bench.put("out-one.csv", moved or b"")
    clean(bench.root, older_than=timedelta(0))
    assert diff(bench.root, *runs) == before
    bench.put("out-one.csv", b"customer_id\n")
    with pytest.raises(
        InputRefused, match=r"chunks of run .* were cleaned, and .*out-one.csv is not its file any more"
    ):
        diff(bench.root, *runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.csv.gz", "out.parquet", "out.jsonl.zst", "out/"])
def test_every_form_of_output(bench: Bench, name: str) -> None:
    """Compressed, Parquet, and one file per input."""
    for half, frame in (("a", rows(60).iloc[:30]), ("b", rows(60).iloc[30:])):
        bench.put(f"in/{half}.csv", encode(frame, "csv"))
    one = bench.run("in/", name).run_id
    two = bench.run("in/", "plain.csv").run_id
    assert diff(bench.root, one, two)["rows"]["both"] == 60
    assert diff(bench.root, one, two)["rows"]["changed"] == 0


def test_what_cannot_be_compared(bench: Bench) -> None:
    """Rows without ids, and columns that are not there."""
    bench.put("in.csv", encode(rows(20), "csv"))
    with_id = bench.run("in.csv", "out.csv").run_id
    dropped = bench.run("in.csv", "two.csv", output__keep=["product"]).run_id
    nameless = bench.run("in.csv", "three.csv", input__id="").run_id
    for run, why in ((dropped, r"keep leaves out customer_id"), (nameless, "the job has no .input. id")):
        with pytest.raises(UsageError, match=f"the rows of run {run} cannot be told apart: .*{why}"):
            diff(bench.root, with_id, run)
    with pytest.raises(UsageError, match=f"the output of run {with_id} has no column 'colour'"):
        diff(bench.root, with_id, with_id, group_by="colour")
    with pytest.raises(UsageError, match="column 'probability' is a score and makes no groups"):
        diff(bench.root, with_id, with_id, group_by="probability")


def test_a_lost_chunk_is_read_from_the_file_that_is_still_the_runs(bench: Bench) -> None:
    """A staged chunk may be gone without `clean`: the published file has the same rows as long as it is the run's own."""
    bench.put("in.csv", encode(rows(60), "csv"))
    run = bench.run("in.csv", "out.csv").run_id
    before = diff(bench.root, run, run)
    (chunk,) = [uri for uri in bench.names() if f"{run}/chunks/" in uri]
    bench.delete(chunk)
    assert diff(bench.root, run, run) == before
    bench.put("out.csv", b"customer_id\n")
    with pytest.raises(InputRefused, match=r"cannot be read \(the staged chunk .* is gone\), and .*out.csv is not its"):
        diff(bench.root, run, run)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [70, 700, 1 << 25])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, chunk_bytes: int) -> None:
    """Each row once and in order wherever the pieces begin, also in the middle of a quoted field with line ends."""
    monkeypatch.setattr(reading, "CHUNK_BYTES", chunk_bytes)
    place = str(tmp_path / f"in.{kind}")
    Path(place).write_bytes(encode(rows(40), kind))
    info = storage_for(place).head(place)
    assert info is not None
    source, options = Source(storage_for(place), info), ReadOptions((), kept=("customer_id", "note"))
    shape = FORMATS[kind].inspect(source, options)
    found = [row for block in reading.blocks(source, shape, kind, options) for row in block.table.to_pylist()]
    assert [row["customer_id"] for row in found] == rows(40)["customer_id"].tolist()
    assert len({str(row["note"]) for row in found}) == 4


def test_no_reader_gets_more_than_a_piece(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader holds all the text that it is given, so a file that is larger than memory comes in many."""
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1000)
    bench.put("in.csv", encode(rows(400), "csv"))
    run, given, read = bench.run("in.csv", "out.csv").run_id, [], FORMATS["csv"].read

    def watched(source: Source, shape: Any, cut: Cut, *rest: Any) -> Any:
        given.append(cut.end - cut.start)
        return read(source, shape, cut, *rest)

    monkeypatch.setitem(FORMATS, "csv", replace(FORMATS["csv"], read=watched))
    assert diff(bench.root, run, run)["rows"]["both"] == 400
    assert (len(given) > 20, max(given) <= 1000) == (True, True)


def test_groups_have_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of each group is in memory, so an id is no group."""
    monkeypatch.setattr(codes, "GROUPS_MAX", 50)
    bench.put("in.csv", encode(rows(60), "csv"))
    run = bench.run("in.csv", "out.csv").run_id
    with pytest.raises(UsageError, match="column 'customer_id' has more than 50 different values"):
        diff(bench.root, run, run, group_by="customer_id")


def numbered(bench: Bench, target: Any, output: str) -> str:
    """A run of a model that was fitted on `target`."""
    model = LinearRegression() if target.dtype == float else LogisticRegression(max_iter=2000)
    features = rows(200)[["age", "spend"]]
    version = batch.register(model.fit(features, target), "numbered", features, root=bench.root)
    bench.put("in.csv", encode(rows(200), "csv"))
    return str(bench.run("in.csv", output, model=f"{bench.root}/models/numbered/{version.version}/").run_id)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_regressors_shift_and_do_not_flip(bench: Bench, suffix: str) -> None:
    data = rows(200)
    one = numbered(bench, data["spend"] * 2.0, "one.csv")
    other = numbered(bench, data["spend"] * 2.0 + 3.0, f"two.{suffix}")
    found = diff(bench.root, one, other)
    assert (found["agreement"], found["flips"], found["score"]) == (None, [], "prediction")
    assert found["score_shift"]["mean"] == pytest.approx(3.0)
    said = text.diff_text(found)
    assert "Score shift (prediction): mean 3, " in said
    assert "flips" not in said


def test_scores_of_other_classes_are_not_compared(bench: Bench) -> None:
    """The probability of one class says nothing about that of another; rows and decisions are compared all the same."""
    age = rows(200)["age"]
    three = numbered(bench, np.select([age < 40, age < 60], ["young", "middle"], "old"), "three.csv")
    two = numbered(bench, np.where(age < 40, "young", "old"), "two.jsonl")
    found = diff(bench.root, three, two, group_by="product")
    assert (found["rows"]["both"], found["score_shift"], found["score"]) == (200, None, None)
    assert {(one["from"], one["to"]) for one in found["flips"]} >= {("middle", "old")}
    assert "Not compared: the scores, for they are of a classifier of middle, old, young and" in text.diff_text(found)
    again = diff(bench.root, three, three)
    assert (again["score"], again["score_shift"]["largest"]) == ("probability_middle", 0.0)


def test_a_regressor_and_a_classifier(bench: Bench) -> None:
    one, other = numbered(bench, rows(200)["spend"], "one.csv"), numbered(bench, rows(200)["age"] > 50, "two.csv")
    with pytest.raises(UsageError, match=f"{one} is of a regressor and {other} is of a classifier: there is nothing"):
        diff(bench.root, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int", "float", "bool"])
def test_classes_are_spelled_alike_in_every_format(bench: Bench, kind: str) -> None:
    """The class 1.0 is 1.0 in CSV, 1.0 in JSON and a number in Parquet: nothing flips between them."""
    target = (rows(200)["age"] > 50).astype(kind)
    classes = LogisticRegression(max_iter=2000).fit(rows(200)[["age", "spend"]], target)
    batch.register(classes, "spelled", rows(200)[["age", "spend"]], root=bench.root)
    bench.put("in.csv", encode(rows(200), "csv"))
    runs = [
        bench.run("in.csv", f"{kind}.{name}", model="models:/spelled/1").run_id for name in ("csv", "jsonl", "parquet")
    ]
    for other in runs:
        assert diff(bench.root, runs[0], other)["rows"]["changed"] == 0


def test_quantiles_of_many_pairs_are_those_of_a_fair_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the sample's size the median stays near the true one, and memory does not grow."""
    monkeypatch.setattr(shifts, "SAMPLE_ROWS", 500)
    rng, found = np.random.default_rng(5), Shift()
    for _ in range(20):
        zero = np.zeros(1000)
        found.add(
            (zero, zero),
            (zero, rng.normal(0.3, 1.0, 1000)),
            zero.astype(int),
            rng.integers(0, 2**63, 1000).astype(np.uint64),
        )
    assert found.as_dict([], ["g"])["score_shift"]["quantiles"]["0.5"] == pytest.approx(0.3, abs=0.2)


def test_the_command(weeks: tuple[Bench, pd.DataFrame, pd.DataFrame, list[str]]) -> None:
    """Markdown, or one JSON document."""
    bench, *_, runs = weeks
    arguments = ["diff", *runs, "--group-by", "product", "--root", bench.root]
    said = CliRunner().invoke(program, arguments)
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"# weekly {runs[0]} → weekly {runs[1]}\n\ntiny/1 (-) → tiny/2 (-)\n")
    assert "| of these changed " in said.stdout
    assert "Score shift (probability): mean " in said.stdout
    document = json.loads(CliRunner().invoke(program, [*arguments, "--json"]).stdout)
    assert document == json.loads(json.dumps(diff(bench.root, *runs, group_by="product")))
