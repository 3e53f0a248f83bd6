"""What a model adds to a row: names and types of its output columns, and how the prediction is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from batch.errors import ModelRefused
from batch.models.signature import REGISTER_AGAIN, TYPES

Kind = Literal["classifier", "regressor"]
Decision = Literal["argmax", "predict"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The output columns of a model, in the order they are written."""

    kind: Kind
    columns: tuple[tuple[str, str], ...]
    """(name, MLflow type), ``prediction`` first."""
    classes: tuple[str | int | float | bool, ...] = ()
    """Of a classifier, in the model's order; empty for a regressor."""
    decision: Decision = "predict"
    """``argmax``: the prediction comes from the one predict_proba call; ``predict``: from a call of its own."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def score(self) -> str:
        """The column that says how sure the model is: the first probability where there is one, else the prediction."""
        return self.names[min(1, len(self.names) - 1)]


def probability_names(classes: tuple[Any, ...]) -> tuple[str, ...]:
    """Two classes share one probability, that of the second; with more, each has its own."""
    if len(classes) == 2:
        return ("probability",)
    return tuple(f"probability_{label}" for label in classes)


def to_json(outputs: Outputs) -> dict[str, Any]:
    """The ``outputs`` of model.json."""
    return {
        "kind": outputs.kind,
        "columns": [{"name": name, "type": kind} for name, kind in outputs.columns],
        "classes": list(outputs.classes),
        "decision": outputs.decision,
    }


def from_json(spec: Any) -> Outputs:
    """Read what `to_json` wrote. Raises `ModelRefused` where it is something else."""
    try:
        if spec["kind"] not in {"classifier", "regressor"} or spec["decision"] not in {"argmax", "predict"}:
            raise ValueError(f"kind {spec['kind']!r} with decision {spec['decision']!r}")
        columns = tuple((str(column["name"]), str(column["type"])) for column in spec["columns"])
        if columns[:1] != (("prediction", columns[0][1]),) or any(kind not in TYPES for _, kind in columns):
            raise ValueError(f"columns {columns}")
        return Outputs(
            kind=cast("Kind", spec["kind"]),
            columns=columns,
            classes=tuple(spec["classes"]),
            decision=cast("Decision", spec["decision"]),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelRefused(f"the outputs in model.json cannot be read: {error!r}", hint=REGISTER_AGAIN) from error
