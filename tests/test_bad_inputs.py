"""Every bad input ends as the list of them says: with its exit code, its code and one sentence, and every row accounted for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch.errors import BatchError, InputMissing, OutputRefused
from batch.execution.check import check
from batch.execution.sample import SAMPLE_BYTES
from batch.storage import open_storage, storage_for
from batch.storage.s3 import S3Storage
from tests.bad_inputs import CASES, GROUPS
from tests.bad_inputs.case import ANY_NUMBER, Benches, Ended, Reject, job_of, run
from tests.bad_inputs.csv_cases import GOOD as GOOD_LINES
from tests.bad_inputs.csv_cases import text
from tests.bad_inputs.page import page
from tests.fault_proxy import fault_proxy
from tests.run_cases import Bench

GOOD = text(*GOOD_LINES)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Benches:
    return Benches(tmp_path_factory.mktemp("bad"))


each_case = pytest.mark.parametrize("name", CASES)


def test_names_are_unique() -> None:
    assert len(CASES) == sum(map(len, GROUPS.values()))


@pytest.mark.slow
@each_case
def test_it_ends_as_it_must(benches: Benches, name: str) -> None:
    """Exit code, code and the facts in the message; nothing is published unless all is well."""
    case, ended = CASES[name], benches.ends(name).first
    assert (ended.exit_code, ended.code) == (case.exit_code, case.code), ended.message
    assert [part for part in case.says if part not in ended.message] == [], ended.message
    assert case.hint in ended.hint
    assert (ended.output is None) == bool(case.exit_code)
    assert "\n" not in ended.message
    assert ended.counts is None or ended.counts[0] == sum(ended.counts[1:])


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if not case.exit_code or case.rejects])
def test_every_row_is_accounted_for(benches: Benches, name: str) -> None:
    """What is not in the rejects file, with its number and reason, is in the output: with a budget, and the same without."""
    case, ends = CASES[name], benches.ends(name)
    assert ends.allowed.exit_code == 0, ends.allowed.message
    assert ends.allowed.counts == (case.predicted + len(case.rejects), case.predicted, len(case.rejects))
    assert len(ends.allowed.output or ()) == case.predicted
    for column, values in case.cells.items():
        assert [record[column] for record in ends.allowed.output or ()] == values
    assert list(map(seen, ends.allowed.rejects)) == list(map(wanted, case.rejects))
    said = [record["_message"] for record in ends.allowed.rejects]
    assert [reject for reject, text in zip(case.rejects, said, strict=True) if reject.says not in text] == [], said
    assert ends.first.rejects == ends.allowed.rejects


def seen(record: dict[str, object]) -> tuple[int, str, str]:
    return int(str(record["_row"])), str(record["_column"]), str(record["_code"])


def wanted(reject: Reject) -> tuple[int, str, str]:
    return reject.row, reject.column, reject.code


@pytest.mark.slow
@each_case
def test_check_knows_it(benches: Benches, name: str) -> None:
    """`check` looks at the first MiB: it tells of these small files what their run ends with."""
    case, ended = CASES[name], benches.ends(name).first
    bench = benches.bench(case, f"{name}.check")
    found = check(job_of(bench, case))
    assert (found["exit_code"], found["ok"]) == (case.exit_code, not case.exit_code), found["refusals"]
    if case.exit_code == 3:
        assert found["refusals"][0]["code"] == case.code
    elif case.exit_code != 6 and len(case.body()) < SAMPLE_BYTES:
        sample = found["sample"] or {"rows": 0, "rejected": 0}
        assert (sample["rows"], sample["rejected"]) == ((ended.counts or ())[0], len(case.rejects))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exit_code in {0, 3, 5}])
@pytest.mark.slow
def test_cuts_make_no_difference(benches: Benches, name: str) -> None:
    """In twenty chunks the same file ends in the same way, to the row."""
    case, whole = CASES[name], benches.ends(name).allowed
    chunk_bytes = max(40, len(case.body()) // 20)
    bench = benches.bench(case, f"{name}.cut")
    assert facts(run(bench, case, rejects__max_rows=ANY_NUMBER, run__chunk_bytes=chunk_bytes)) == facts(whole)


def facts(ended: Ended) -> tuple[object, ...]:
    """All but the sentences, which may name a place in a chunk."""
    return ended.exit_code, ended.code, ended.counts, ended.rejects, len(ended.output or ())


@pytest.mark.slow
def test_page_is_current(benches: Benches) -> None:
    """What `make docs` would write is what is there, except that each Python has words of its own for broken JSON."""
    current = (Path(__file__).parents[1] / "docs" / "bad-inputs.md").read_text("utf-8")
    assert stable(current) == stable(page(benches)), "run `make docs`"


def stable(text: str) -> str:
    return re.sub(r"not JSON at its character \d+: [^|<]*", "not JSON", text)


# --- keys and objects of a store


ODD_KEYS = [
    "up/../in.csv",
    "./in.csv",
    "a//in.csv",
    "back\\slash.csv",
    "new\nline.csv",
    "umbrella ☂️.csv",
    "a%2Fb +&=#.csv",
]


@pytest.fixture(params=["moto", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def stored(request: pytest.FixtureRequest, benches: Benches, tmp_path: Path) -> Bench:
    """A bucket, and the tiny model beside it."""
    bucket = request.getfixturevalue({"moto": "moto_bucket", "seaweedfs": "bucket"}[request.param])
    return Bench(bucket, benches.model("tiny"), tmp_path)


@pytest.mark.parametrize("key", ODD_KEYS)
@pytest.mark.slow
def test_an_odd_key_is_taken_as_it_is(stored: Bench, key: str) -> None:
    """No part of a key means anything: the object that was put is the one that is read, alone and under its prefix.

    A store that itself takes such a key for another one, or for none, is not tested.
    """
    uri, listed = f"{stored.root}/odd/{key}", []
    try:
        stored.put(f"odd/{key}", GOOD())
        listed = [info.uri for info in storage_for(uri).list(f"{stored.root}/odd/")]
    except BatchError:
        pass
    if listed != [uri]:
        pytest.skip(f"the store has no such key: {listed}")
    for number, place in enumerate((uri, f"{stored.root}/odd/")):
        receipt = stored.run("unused", f"out{number}.csv", input__uri=place).as_dict()
        assert [(one["uri"], one["rows"]) for one in receipt["input"]] == [(uri, 3)]


def test_a_folder_marker_is_no_input(stored: Bench) -> None:
    """The empty objects that consoles make for folders are skipped; asked for by name they are a prefix."""
    stored.put("in/", b"")
    stored.put("in/a.csv", GOOD())
    assert stored.run("in/", "out.csv").rows.read == 3


def test_a_key_cannot_lead_an_output_out_of_its_folder(benches: Benches, moto_bucket: str, tmp_path: Path) -> None:
    """On a store `..` is part of a name; in a folder of this machine it would be a way out."""
    bench = Bench(moto_bucket, benches.model("tiny"), tmp_path)
    bench.put("in/../../evil.csv", GOOD())
    with pytest.raises(OutputRefused, match=r"the '\.\.' in the key of s3://.*evil.csv would lead its output out"):
        bench.run("in/", "unused", output__uri=f"{tmp_path}/a/b/c/")
    assert not list(tmp_path.rglob("evil*"))


def test_an_archived_object_is_named_as_such(
    benches: Benches, moto_bucket: str, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAD and LIST tell nothing of it; the first GET does."""
    bench = Bench(moto_bucket, benches.model("tiny"), tmp_path)
    bench.put("in.csv", GOOD())
    with fault_proxy(moto_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        open_storage.cache_clear()
        proxy.add("err", method="GET", key="in.csv", status=403, code="InvalidObjectState", message="not valid")
        with pytest.raises(InputMissing, match=r"GetObject s3://.*/in.csv .*: the object is archived") as caught:
            bench.run("in.csv", "out.csv")
    assert caught.value.hint == "Restore it from the archive first."


def test_a_deleted_version_is_no_object(benches: Benches, moto_bucket: str, tmp_path: Path) -> None:
    """What a delete marker hides is not there."""
    bench = Bench(moto_bucket, benches.model("tiny"), tmp_path)
    client = S3Storage().connection.client()
    client.put_bucket_versioning(
        Bucket=moto_bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"}
    )
    uri = bench.put("in.csv", GOOD())
    storage_for(uri).delete(uri)
    with pytest.raises(InputMissing, match="there is no input"):
        bench.run("in.csv", "out.csv")


# --- the program itself


@pytest.mark.parametrize(
    "name",
    [
        "jsonl-first-null",
        "jsonl-depth-100000",
        "parquet-forged-rows",
        "parquet-bit-flip",
        "csv-unclosed-quote",
        "gz-bomb",
    ],
)
@pytest.mark.slow
def test_the_program_says_the_same(benches: Benches, name: str) -> None:
    """In a process of its own: that exit code, two lines on stderr, a receipt on stdout, and never a traceback."""
    case, expected = CASES[name], benches.ends(name).first
    bench = benches.bench(case, f"{name}.program")
    bench.job(case.file, case.output)
    command = [sys.executable, "-m", "batch", "run", str(bench.folder / "weekly.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == case.exit_code, done.stderr
    assert anywhere(f"error: {expected.message}\nhint: {expected.hint}\n") in anywhere(
        done.stderr.replace(f"{bench.root}/", "")
    )
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == case.code


def anywhere(said: str) -> str:
    """The same text for every root, whose runs have other ids."""
    return re.sub(r"(?<=\bretry )[0-9a-f]{16}\b", "RUN", said)
