"""Score a file in S3-compatible storage with a model: whole or not at all, in order, every row accounted for.

The public Python surface is small::

    import batch

    job = batch.load_job("jobs/weekly_satisfaction.toml")
    receipt = batch.run(job)

Everything is imported on first use, so that ``import batch`` and ``batch-predict --help`` stay cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Job", "ModelVersion", "Receipt", "__version__", "captures", "load_job", "register", "run", "score"]

if TYPE_CHECKING:
    from batch.execution.captures import captures
    from batch.execution.ended import run
    from batch.execution.receipt import Receipt
    from batch.execution.runner import score
    from batch.job import Job, load_job
    from batch.models.registry import ModelVersion, register

_HOME = {
    "Job": "batch.job",
    "ModelVersion": "batch.models.registry",
    "Receipt": "batch.execution.receipt",
    "captures": "batch.execution.captures",
    "load_job": "batch.job",
    "register": "batch.models.registry",
    "run": "batch.execution.ended",
    "score": "batch.execution.runner",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for (PEP 562)."""
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'batch' has no attribute {name!r}") from None
    return getattr(import_module(home), name)
