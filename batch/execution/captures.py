"""The rows that runs have kept for the next training, read back as one frame."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd

from batch.errors import InputMissing
from batch.execution import history, records
from batch.storage import normalise, storage_for


def captures(job: str, *, root: str) -> pd.DataFrame:
    """What completed runs of a job have captured: a row per captured row, columns ``run_id``, ``period`` and those of the rows.

    Of several runs of one period (``--force``, a retry) only the newest counts. Rows come oldest period first. Raises
    `InputMissing` where no run has captured anything: the job needs ``[monitor] capture_rows``.
    """
    found = [trace for trace in history.traces(normalise(root), job) if trace.done]
    receipts = [receipt for trace in found if (receipt := records.load(trace.done)) and receipt.get("capture")]
    newest = {one["subject"]: one for one in sorted(receipts, key=_finished)}
    frames = [frame for one in sorted(newest.values(), key=_finished) if (frame := _read(one)) is not None]
    if not frames:
        raise InputMissing(f"no run of job '{job}' under {root} has captured rows", hint="set [monitor] capture_rows")
    return pd.concat(frames, ignore_index=True)


def _finished(receipt: dict[str, Any]) -> str:
    return str(receipt["timing"]["finished_at"])


def _read(receipt: dict[str, Any]) -> pd.DataFrame | None:
    uri = receipt["capture"]["uri"]
    body = storage_for(uri).get(uri)
    if body is None:
        return None
    frame = pd.read_parquet(io.BytesIO(body))
    frame.insert(0, "period", receipt["subject"])
    frame.insert(0, "run_id", receipt["run_id"])
    return frame
