"""The checks on decoded rows: null, infinity, range and category, each with its policy."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import SchemaMismatch
from batch.formats import Column, Policy, ReadOptions
from batch.formats.validate import shown, split

INFINITY, NAN = float("inf"), float("nan")


def outcome(column: Column, values: list[Any], kind: pa.DataType, **policies: Policy) -> tuple[list[Any], list[Any]]:
    """Values that pass, and (row, code) of those that do not."""
    table = pa.table({column.name: pa.array(values, kind), "kept": list(range(len(values)))})
    valid, faults = split(table, ReadOptions((column,), **policies))
    assert valid.schema == table.schema
    assert valid.num_rows + len(faults) == len(values)
    return valid[column.name].to_pylist(), [(row, code) for row, _, code, _ in faults]


def test_a_clean_table_is_handed_through() -> None:
    """Nothing is copied and nothing is found."""
    table = pa.table({"x": [1.0, 2.0], "s": ["a", "b"]})
    columns = (Column("x", "double", minimum=1, maximum=2), Column("s", "string", categories=("a", "b")))
    valid, faults = split(table, ReadOptions(columns))
    assert valid is table
    assert faults == []


@pytest.mark.parametrize(
    ("policy", "passed", "refused"),
    [("reject", [1.0], [(1, "null"), (2, "null")]), ("null", [1.0, None, None], []), ("allow", [1.0, None, None], [])],
)
def test_null_in_a_required_column(policy: Policy, passed: list[Any], refused: list[Any]) -> None:
    """NaN is null, and passes as such unless nulls are rejected."""
    assert outcome(Column("x", "double"), [1.0, None, NAN], pa.float64(), on_null=policy) == (passed, refused)


def test_null_in_an_optional_column_passes() -> None:
    """Where training data had nulls, so may the input; NaN becomes one."""
    assert outcome(Column("x", "float", required=False), [NAN, None, 1.0], pa.float32()) == ([None, None, 1.0], [])
    assert outcome(Column("s", "string", required=False), ["a", None], pa.string()) == (["a", None], [])


@pytest.mark.parametrize(
    ("policy", "passed", "refused"),
    [
        ("reject", [2, 5], [(0, "range"), (3, "range")]),
        ("null", [None, 2, 5, None], []),
        ("allow", [1, 2, 5, 6], []),
    ],
)
def test_a_value_outside_its_declared_range(policy: Policy, passed: list[Any], refused: list[Any]) -> None:
    """Bounds are inclusive; under "null" the value is taken out and its row passes."""
    column = Column("n", "long", minimum=2, maximum=5)
    assert outcome(column, [1, 2, 5, 6], pa.int64(), on_range=policy) == (passed, refused)


@pytest.mark.parametrize(
    ("policy", "passed", "refused"),
    [
        ("reject", [1.0], [(0, "range"), (2, "range")]),
        ("null", [None, 1.0, None], []),
        ("allow", [INFINITY, 1.0, -INFINITY], []),
    ],
)
def test_infinity_is_a_range_fault(policy: Policy, passed: list[Any], refused: list[Any]) -> None:
    """Without any declared range, too."""
    values = [INFINITY, 1.0, -INFINITY]
    assert outcome(Column("x", "double"), values, pa.float64(), on_range=policy) == (passed, refused)


@pytest.mark.parametrize(
    ("policy", "passed", "refused"),
    [("reject", ["a"], [(1, "category")]), ("null", ["a", None], []), ("allow", ["a", "z"], [])],
)
def test_an_unknown_category(policy: Policy, passed: list[Any], refused: list[Any]) -> None:
    """Only what was declared is known."""
    column = Column("s", "string", categories=("a", "b"))
    assert outcome(column, ["a", "z"], pa.string(), on_category=policy) == (passed, refused)


def test_categories_may_be_numbers_or_booleans() -> None:
    """They are compared as values of the column's type; a null is no unknown category."""
    assert outcome(Column("n", "double", categories=(1, 2)), [1.0, 3.0], pa.float64()) == ([1.0], [(1, "category")])
    assert outcome(Column("b", "boolean", categories=(True,)), [True, False], pa.bool_()) == ([True], [(1, "category")])
    optional = Column("n", "long", required=False, categories=(1,))
    assert outcome(optional, [None, 1], pa.int64()) == ([None, 1], [])


def test_categories_of_another_type_are_refused() -> None:
    """That is a mistake in the model's signature, and is told as one."""
    with pytest.raises(SchemaMismatch, match="categories of column 'n' are not of its type long"):
        outcome(Column("n", "long", categories=("a",)), [1], pa.int64())


def test_messages_name_column_value_and_bound() -> None:
    """One sentence each, with both numbers of a comparison."""
    columns = (
        Column("n", "long", minimum=0, maximum=120),
        Column("x", "double"),
        Column("s", "string", categories=("a", "b")),
    )
    table = pa.table({"n": [None, -1, 121, 1, 1], "x": [1.0, 1.0, 1.0, INFINITY, 1.0], "s": ["a", "a", "a", "a", "zz"]})
    _, faults = split(table, ReadOptions(columns), first_row=10)
    assert faults == [
        (10, "n", "null", "n is null, but the model requires a value"),
        (11, "n", "range", "n is -1, below its minimum of 0"),
        (12, "n", "range", "n is 121, above its maximum of 120"),
        (13, "x", "range", "x is inf, but only finite numbers can be scored"),
        (14, "s", "category", "s is 'zz', which is none of its 2 categories"),
    ]


def test_a_row_is_rejected_once_for_its_first_column() -> None:
    """Signature order decides which fault is told."""
    table = pa.table({"b": pa.array([None, 1], pa.int64()), "a": pa.array([None, None], pa.int64())})
    _, faults = split(table, ReadOptions((Column("a", "long"), Column("b", "long"))))
    assert [(row, column) for row, column, _, _ in faults] == [(0, "a"), (1, "a")]


def test_slices_and_chunks_are_seen_as_they_are() -> None:
    """Offsets into shared buffers count from the slice's first row; chunks are one column."""
    table = pa.concat_tables([pa.table({"x": [INFINITY, 1.0]}), pa.table({"x": [2.0, NAN]})]).slice(1)
    valid, faults = split(table, ReadOptions((Column("x", "double"),)))
    assert valid["x"].to_pylist() == [1.0, 2.0]
    assert [(row, code) for row, _, code, _ in faults] == [(2, "null")]


def test_an_empty_table_passes() -> None:
    """No rows, no faults, with every kind of check."""
    columns = (Column("x", "double", minimum=0), Column("s", "string", categories=("a",)))
    table = pa.table({"x": pa.array([], pa.float64()), "s": pa.array([], pa.string())})
    assert split(table, ReadOptions(columns)) == (table, [])


def test_a_long_value_is_shortened_in_messages() -> None:
    """A message stays a line."""
    assert shown("x" * 1000) == "'" + "x" * 76 + "..."


FLOATS = st.lists(st.none() | st.floats(width=32) | st.sampled_from([0.0, 5.0, INFINITY, -INFINITY, NAN]), max_size=20)
POLICIES = st.sampled_from(["reject", "null", "allow"])


@given(FLOATS, POLICIES, POLICIES, st.booleans())
def test_all_policies_agree_with_their_definition(
    values: list[float | None], on_null: Policy, on_range: Policy, required: bool
) -> None:
    """Row by row and in words: what the vectorised checks must come to."""
    column = Column("x", "double", required=required, minimum=0, maximum=5)
    passed, refused = [], []
    for row, value in enumerate(values):
        if value is None or math.isnan(value):
            (refused.append((row, "null")) if required and on_null == "reject" else passed.append(None))
        elif 0 <= value <= 5 or on_range == "allow":
            passed.append(value)
        else:
            (refused.append((row, "range")) if on_range == "reject" else passed.append(None))
    assert outcome(column, values, pa.float64(), on_null=on_null, on_range=on_range) == (passed, refused)
