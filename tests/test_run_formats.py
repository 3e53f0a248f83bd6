"""A run reads and writes every format, and the model's numbers survive the way."""

import json
import math

import pytest

from tests.run_cases import Bench, compress, encode, predicted, rows

INPUTS = [f"csv{s}" for s in ("", ".gz", ".zst")] + [f"jsonl{s}" for s in ("", ".gz", ".zst")] + ["parquet"]
PLAIN = ["csv", "jsonl", "parquet"]


def fill(bench: Bench, source: str) -> None:
    format_name, _, suffix = source.partition(".")
    bench.put(f"in.{source}", compress(encode(rows(), format_name), suffix and f".{suffix}"))


PAIRS = [(one, other) for one in PLAIN for other in INPUTS] + [(one, "csv") for one in INPUTS if one not in PLAIN]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_predictions_are_the_estimators_to_the_bit(bench: Bench, source: str, target: str) -> None:
    """Rows keep their order and ids; predictions in batches of `predict_rows` survive every format to the last bit."""
    fill(bench, source)
    bench.run(f"in.{source}", f"out.{target}", run__predict_rows=7)
    found = bench.records(f"out.{target}")
    assert list(found[0]) == ["customer_id", "product", "prediction", "probability"]
    assert [(one["customer_id"], one["product"]) for one in found] == list(
        rows()[["customer_id", "product"]].itertuples(index=False, name=None)
    )
    assert [(one["prediction"], float(one["probability"])) for one in found] == predicted(rows(), 7)


@pytest.mark.parametrize("target", PLAIN)
@pytest.mark.parametrize("source", PLAIN)
def test_keep_all_carries_every_column(bench: Bench, source: str, target: str) -> None:
    """With keep = ["*"] every input column stands in front of the predictions with its own value."""
    fill(bench, source)
    bench.run(f"in.{source}", f"out.{target}", output__keep=["*"])
    found = bench.records(f"out.{target}")
    assert list(found[0]) == [*rows().columns, "prediction", "probability"]
    got = [(o["customer_id"], int(o["age"]), float(o["spend"]), o["product"], o["note"]) for o in found]
    assert got == list(rows().itertuples(index=False, name=None))
    assert [(one["prediction"], float(one["probability"])) for one in found] == predicted(rows())


@pytest.mark.parametrize("source", PLAIN)
def test_ids_stay_text_in_typed_outputs(bench: Bench, source: str) -> None:
    """An id of leading zeros is text in Parquet and JSON Lines, never a number."""
    fill(bench, source)
    for target in ("jsonl", "parquet"):
        bench.run(f"in.{source}", f"out.{target}")
        assert bench.records(f"out.{target}")[0]["customer_id"] == "00123"


def records_of_many_kinds() -> list[dict[str, object]]:
    kinds: list[object] = ["text", 7, 1.5, True, None, {"a": [1]}, [1, "b"]]
    found: list[dict[str, object]] = []
    for number, row in enumerate(rows(140).drop(columns="note").to_dict("records")):
        record = {str(key): value for key, value in row.items()} | {"customer_id": number}
        if number % 3:
            record["extra"] = kinds[number % len(kinds)]
        found.append(record)
    return found


def test_json_lines_come_back_with_their_values(bench: Bench) -> None:
    """JSONL to JSONL, keep = ["*"]: integer ids, missing keys, nested values and the spelling 1.10 are written back."""
    records = records_of_many_kinds()
    lines = "".join(json.dumps(one)[:-1] + ', "price": 1.10}\n' for one in records)
    bench.put("in.jsonl", lines.encode())
    bench.run("in.jsonl", "out.jsonl", output__keep=["*"], run__chunk_bytes=2048)
    assert (bench.get("out.jsonl") or b"").count(b'"price": 1.10') == len(records)
    found = bench.records("out.jsonl")
    for one in found:
        assert one.pop("prediction") in {"yes", "no"}
        assert 0 < one.pop("probability") < 1
    assert found == [one | {"price": 1.1} for one in records]


@pytest.mark.parametrize("chunk_bytes", [2048, 1 << 20])
def test_a_kept_json_column_of_mixed_types_keeps_its_values(bench: Bench, chunk_bytes: int) -> None:
    """A kept extra column whose type changes from row to row is written back as it was, whatever the cuts; missing is null."""
    records = records_of_many_kinds()
    bench.put("in.jsonl", "".join(json.dumps(one) + "\n" for one in records).encode())
    bench.run("in.jsonl", "out.jsonl", output__keep=["customer_id", "extra"], run__chunk_bytes=chunk_bytes)
    found = [(one["customer_id"], one["extra"]) for one in bench.records("out.jsonl")]
    assert found == [(one["customer_id"], one.get("extra")) for one in records]
    assert [type(value) for _, value in found] == [type(one.get("extra")) for one in records]


def test_json_values_of_mixed_types_become_text_in_csv(bench: Bench) -> None:
    """In a CSV a kept JSON value is its JSON text, a string without its quotes, and null an empty cell."""
    records = records_of_many_kinds()
    bench.put("in.jsonl", "".join(json.dumps(one) + "\n" for one in records).encode())
    bench.run("in.jsonl", "out.csv", output__keep=["customer_id", "extra"])
    for one, cell in zip(records, (row["extra"] for row in bench.records("out.csv")), strict=True):
        value = one.get("extra")
        expected = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        assert cell.replace(" ", "") == str(expected).replace(" ", "")


def test_probabilities_are_finite_shares(bench: Bench) -> None:
    """The probability of a CSV parses as a finite number between 0 and 1."""
    fill(bench, "csv")
    bench.run("in.csv", "out.csv")
    assert all(math.isfinite(p) and 0 < p < 1 for p in (float(o["probability"]) for o in bench.records("out.csv")))
