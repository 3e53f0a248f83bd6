"""What makes two runs the same: the run id and the subject.

A run id is a hash of everything that can change a published byte and of nothing else, so that the same command asked twice is
one run, and a changed input, model or job is another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from batch import placeholders
from batch.execution.inputs import Inputs
from batch.execution.variants import DELIVERED
from batch.job import Job
from batch.models.bundle import ResolvedModel
from batch.period import Period
from batch.uri import join

FORMAT = 1
"""Of plans, chunks, commits and receipts; part of every run id."""

LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn")

_INPUT_KEYS = ("format", "id", "delimiter", "header", "null_values", "unique_id", "max_record_bytes")
_OUTPUT_KEYS = ("format", "keep", "excel_safe")
_CHECK_KEYS = ("on_null", "on_range", "on_category")
_RUN_KEYS = ("chunk_bytes", "predict_rows")


def canonical(document: Any) -> bytes:
    """JSON with one spelling per value."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(body: bytes) -> str:
    """Hash to hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def run_id(job: Job, period: Period | None, inputs: Inputs, models: Mapping[str, ResolvedModel]) -> str:
    """The first 16 hex digits of the hash that names this computation."""
    document = {
        "format": FORMAT,
        "job": job.name,
        "period": period.name if period else None,
        "inputs": [
            _version(file.pin.uri, file.pin.version_id, file.pin.etag, file.pin.size_bytes) for file in inputs.files
        ],
        "variants": [{"name": DELIVERED, "sha256": models[DELIVERED].sha256}, *_variants(job, models)],
        "salt": job.salt or job.name,
        "input": {key: getattr(job.input, key) for key in _INPUT_KEYS} | {"uri": _rendered(job.input.uri, period)},
        "output": {key: getattr(job.output, key) for key in _OUTPUT_KEYS} | {"uri": _rendered(job.output.uri, period)},
        "rejects": _rendered(job.rejects.uri, period),
        "checks": {key: getattr(job.checks, key) for key in _CHECK_KEYS},
        "run": {key: getattr(job.run, key) for key in _RUN_KEYS},
    }
    return sha256(canonical(document))[:16]


def _variants(job: Job, models: Mapping[str, ResolvedModel]) -> list[dict[str, Any]]:
    """A shadow whose model cannot be found is another computation than one that can."""
    return [
        {
            "name": one.name,
            "mode": one.mode,
            "weight": one.weight,
            "sha256": models[one.name].sha256 if one.name in models else None,
        }
        for one in job.variants
    ]


def _rendered(uri: str, period: Period | None) -> str:
    return placeholders.render(uri, period=period)


def _version(uri: str, version_id: str | None, etag: str, size_bytes: int) -> dict[str, Any]:
    return {"uri": uri, "version": version_id} if version_id else {"uri": uri, "etag": etag, "size": size_bytes}


def run_folder(job: Job, run: str) -> str:
    """Where the plan, chunks and commit of a run live."""
    return join(job.root, "runs", job.name, run)


def done_uri(job: Job, about: str, run: str) -> str:
    """Where the receipt of a completed run lives."""
    return join(job.root, "done", job.name, about, f"{run}.json")


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose change may change a byte."""
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}
