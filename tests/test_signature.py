"""A column keeps its dtype, its values and its nulls on the way from pandas through the signature and Arrow and back."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from batch.errors import ModelRefused, SchemaMismatch, UsageError
from batch.models import signature
from batch.models.signature import SignatureColumn


def one_column(values: Any) -> SignatureColumn:
    return signature.infer(pd.DataFrame({"a": values}))[0]


@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        ([True, False], "boolean", "bool"),
        (pd.array([True, None], dtype="boolean"), "boolean", "boolean"),
        (np.array([1, 2], dtype="int8"), "integer", "int8"),
        ([1, 2], "long", "int64"),
        (pd.array([1, None], dtype="Int64"), "long", "Int64"),
        (np.array([1, 2], dtype="float32"), "float", "float32"),
        ([1.5, None], "double", "float64"),
        (["x", None], "string", "str"),
        (pd.array(["x", None], dtype="string"), "string", "string"),
        (np.array(["x", None], dtype=object), "string", "object"),
        (np.array(["x", np.nan], dtype=object), "string", "object"),
        (np.array([True, None], dtype=object), "boolean", "object"),
        (np.array([1, None], dtype=object), "long", "object"),
        (np.array([b"x", b"y"], dtype=object), "binary", "object"),
        (pd.Categorical(["x", None], categories=["y", "x"]), "string", "category"),
        (pd.Categorical([1, 2], categories=[2, 1], ordered=True), "long", "category"),
        (pd.to_datetime(["2026-01-02", None]), "datetime", "datetime64[us]"),
        (pd.to_datetime(["2026-01-02", "2026-01-03"]).as_unit("ns"), "datetime", "datetime64[ns]"),
        (pd.to_datetime(["2026-01-02"]).tz_localize("Europe/Berlin"), "datetime", "datetime64[us, Europe/Berlin]"),
    ],
)
def test_a_column_comes_back_as_the_model_knew_it(values: Any, kind: str, dtype: str) -> None:
    """Every dtype has an MLflow type, survives JSON, and Arrow rows come back with the same dtype, values and nulls."""
    frame = pd.DataFrame({"a": pd.Series(values, dtype=getattr(values, "dtype", None))})
    columns = signature.from_json(json.loads(json.dumps(signature.to_json(signature.infer(frame)))))
    assert (columns[0].type, columns[0].dtype) == (kind, dtype)
    assert columns[0].required == bool(frame["a"].notna().all())
    back = signature.to_frame(signature.from_frame(frame, columns), columns)
    pd.testing.assert_frame_equal(back, frame)
    assert list(map(type, back["a"])) == list(map(type, frame["a"]))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1j, 2j], "complex128"),
        ([[1], [2]], "mixed"),
        ([1, "x"], "mixed-integer"),
        (pd.to_timedelta([1, 2]), "timedelta64"),
        (np.array([2**63], dtype="uint64"), "uint64"),
        (pd.Categorical(pd.to_datetime(["2026-01-01"])), "category"),
    ],
)
def test_a_column_no_signature_describes_is_refused(values: Any, what: str) -> None:
    """The message names the column and what it holds."""
    with pytest.raises(ModelRefused, match=rf"column 'a' of X is .*{what}"):
        one_column(pd.Series(values))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((2, 2)), "X is a ndarray"),
        (pd.DataFrame({0: [1]}), "column name 0"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
        (pd.DataFrame({"a": []}), "0 rows and 1 columns"),
    ],
)
def test_a_frame_without_usable_names_is_refused(frame: Any, message: str) -> None:
    """Columns are matched by name, so each needs one of its own; an array has none."""
    with pytest.raises(UsageError, match=message):
        signature.infer(frame)


def test_ranges_and_categories_are_declared_and_kept() -> None:
    """What a column may hold comes from the registrar alone, and reads back the same."""
    frame = pd.DataFrame({"age": [30, 40], "city": ["a", "b"]})
    columns = signature.infer(frame, ranges={"age": (0, None)}, categories={"city": ["a", "b", "c"]})
    assert (columns[0].minimum, columns[0].maximum, columns[1].categories) == (0, None, ("a", "b", "c"))
    assert signature.from_json(signature.to_json(columns)) == columns
    with pytest.raises(UsageError, match="'agee'"):
        signature.infer(frame, ranges={"agee": (0, 1)})


@pytest.mark.parametrize(
    ("dtype", "kind", "values", "expected", "found"),
    [
        ("int64", "long", [1, None], [1.0, np.nan], "float64"),
        ("bool", "boolean", [True, None], [True, np.nan], "object"),
        ("int8", "integer", [1, 300], [1, 300], "int32"),
        ("float64", "double", [1.5, None], [1.5, np.nan], "float64"),
    ],
)
def test_nulls_where_training_had_none(dtype: str, kind: str, values: Any, expected: Any, found: str) -> None:
    """Integers and booleans with nulls become what pandas makes of them; a value too large for its dtype stays whole."""
    column = SignatureColumn("a", kind, required=False, dtype=dtype)
    back = signature.to_frame(pa.table({"a": values}), [column])["a"]
    pd.testing.assert_series_equal(back, pd.Series(expected, dtype=found, name="a"))


def test_columns_are_taken_by_name_in_signature_order() -> None:
    """Order and further columns of the table do not matter; a missing one is named."""
    columns = signature.infer(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    assert list(signature.to_frame(pa.table({"x": [0], "b": [2.0], "a": [1.0]}), columns)) == ["a", "b"]
    with pytest.raises(SchemaMismatch, match="lack 1 of the model's 2 columns: b"):
        signature.to_frame(pa.table({"a": [1.0]}), columns)


def test_numbers_are_not_copied() -> None:
    """A float column of one chunk is the Arrow buffer itself."""
    table = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    frame = signature.to_frame(table, signature.infer(pd.DataFrame({"a": [1.0], "b": [1.0]})))
    assert np.shares_memory(frame["b"].to_numpy(), table["b"].chunk(0).to_numpy())


def test_an_unknown_category_is_missing() -> None:
    """As in pandas: what the dtype does not list has no code."""
    column = one_column(pd.Categorical(["x", "y"]))
    assert signature.to_frame(pa.table({"a": ["y", "z"]}), [column])["a"].cat.codes.tolist() == [1, -1]
