"""The texts of a bundle for readers other than us: the model card, the MLmodel file of MLflow, requirements.txt."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from batch import __version__

LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "skops")
BOOSTING = ("xgboost", "lightgbm")


def library_versions(packages: Collection[str] = ()) -> dict[str, str]:
    """Versions of what decides a model's outputs here; of `packages` (top-level names) the boosting libraries count too."""
    found = {"python": platform.python_version(), "batch-predict": __version__}
    for name in (*LIBRARIES, *(name for name in BOOSTING if name in packages)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def requirements(card: Mapping[str, Any]) -> str:
    """requirements.txt: what the model itself needs, pinned."""
    needed = ("numpy", "pandas", "scipy", "scikit-learn", "skops", *BOOSTING)
    return "".join(f"{name}=={card['libraries'][name]}\n" for name in needed if name in card["libraries"])


MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: {file}
    predict_fn: predict
    python_version: {python}
  sklearn:
    code: null
    pickled_model: {file}
    serialization_format: {serialization}
    skops_trusted_types: {trusted}
    sklearn_version: {sklearn}
model_uuid: {uuid}
signature:
  inputs: {inputs}
  outputs: {outputs}
  params: null
utc_time_created: {created}
"""


def mlmodel(card: Mapping[str, Any], trusted_types: Collection[str], uuid: str) -> str:
    """The MLmodel file, so that ``mlflow.pyfunc.load_model(folder)`` works. JSON scalars are YAML scalars."""
    columns = [{key: column[key] for key in ("type", "name", "required")} for column in card["signature"]]
    outputs = [{**column, "required": True} for column in card["outputs"]["columns"][:1]]
    values = {
        "file": card["model_file"],
        "python": card["libraries"]["python"],
        "serialization": "skops" if card["model_file"].endswith(".skops") else "cloudpickle",
        "trusted": sorted(trusted_types),
        "sklearn": card["libraries"]["scikit-learn"],
        "uuid": uuid,
        "inputs": json.dumps(columns),
        "outputs": json.dumps(outputs),
        "created": card["created_at"].replace("T", " ").removesuffix("+00:00"),
    }
    return MLMODEL.format_map({key: json.dumps(value) for key, value in values.items()})


README = """\
# {name} {version}

{description}

{estimator}, a {kind}; registered {created_at}{by} from {rows} rows.
Writes {outputs}.{classes}

## Columns
| column | type | required | trained as | range or categories |
|---|---|---|---|---|
{columns}

## Metrics
{metrics}

## Made with
{libraries}

## Files
{files}

`golden.parquet` holds up to 50 rows of the training frame: treat this folder as you treat the training data.
"""


def readme(card: Mapping[str, Any]) -> str:
    """README.md: what the model is, what it needs and returns, how good it was, what it was made with."""
    outputs, by = card["outputs"], card["by"]
    return README.format(
        name=card["name"],
        version=card["version"],
        description=card["description"] or "(no description was given)",
        estimator=card["estimator"],
        kind=outputs["kind"],
        created_at=card["created_at"],
        by=f" by {by}" if by else "",
        rows=card["training"]["rows"],
        outputs=", ".join(f"`{column['name']}` ({column['type']})" for column in outputs["columns"]),
        classes=f" Classes: {', '.join(map(str, outputs['classes']))}." if outputs["classes"] else "",
        columns="\n".join(_column_row(column) for column in card["signature"]),
        metrics="\n".join(f"- {name}: {value:.6g}" for name, value in card["metrics"].items()) or "(none were given)",
        libraries=", ".join(f"{name} {number}" for name, number in card["libraries"].items()),
        files="\n".join(f"- `{name}` sha256 {file['sha256']}" for name, file in card["files"].items()),
    )


def _column_row(column: Mapping[str, Any]) -> str:
    limits = ""
    if "range" in column:
        low, high = column["range"]
        limits = f"{'' if low is None else low} … {'' if high is None else high}"
    if "categories" in column:
        shown = ", ".join(str(value) for value in column["categories"][:10])
        limits = f"{limits} {shown}{', …' if len(column['categories']) > 10 else ''}".strip()
    cells = (column["name"], column["type"], "yes" if column["required"] else "no", column["dtype"], limits)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
