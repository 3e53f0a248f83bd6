"""The columns a model was fitted on: MLflow's column spec plus the pandas dtype, and the way between Arrow and pandas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SignatureColumn:
    """One feature, as it stood in the frame the model was fitted on."""

    name: str
    type: str
    """MLflow type: boolean, integer, long, float, double, string, binary, datetime."""
    required: bool
    """True where the training frame had no null."""
    dtype: str
    """pandas dtype the model was fitted with, as text: ``int64``, ``str``, ``object``, ``category``, ``datetime64[ns]``…"""
    minimum: float | None = None
    """Declared lower bound (inclusive); never inferred."""
    maximum: float | None = None
    categories: tuple[str | int | float | bool, ...] | None = None
    """Declared categories; for dtype ``category`` those of the dtype."""
