"""The main job from end to end on an S3 server of its own: train, register, score, and look at what came out."""

from __future__ import annotations

import os
import runpy
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.errors import UsageError
from batch.storage import storage_for

if TYPE_CHECKING:
    from batch.job import Job

BUCKET = "demo"
ROOT = f"s3://{BUCKET}"
INPUT = f"{ROOT}/exports/customers.csv"
OUTPUT = f"{ROOT}/predictions/satisfaction.csv"
SAMPLE = Path("sample_data/customers.csv")
TRAINING = Path("jobs/train_satisfaction.py")
JOB = Path("jobs/weekly_satisfaction.toml")
FIRST_ROWS = 5

Say = Callable[[str], object]


def demonstrate(
    *,
    keep: bool,
    say: Say,
    summary: Callable[[dict[str, Any]], str],
    progress: Callable[[int, int, int, float], None] | None = None,
) -> None:
    """Run the demo and tell it line by line through `say`; with `keep`, wait for Ctrl-C before the server stops.

    `summary` turns a receipt into text; `progress` is given to the runner. Raises `UsageError` outside a checkout and
    `ExtraMissing` where the server is not installed.
    """
    _need_checkout()
    from batch.storage.embedded import EmbeddedS3

    with EmbeddedS3() as server:
        os.environ.update(server.environment())
        server.create_bucket(BUCKET)
        say(f"An S3 server is up at {server.endpoint_url}, with one empty bucket: {ROOT}\n")
        _upload(say)
        _train(say)
        say(f"3. Scoring it with {JOB}\n")
        say(summary(_score(progress)))
        say(f"\nThe first {FIRST_ROWS} predictions in {OUTPUT}:\n{first_lines(OUTPUT, FIRST_ROWS + 1)}\n")
        _what_next(say, server.environment(), keep=keep)
        if keep:
            _wait()


def _need_checkout() -> None:
    missing = [str(path) for path in (SAMPLE, TRAINING, JOB) if not path.is_file()]
    if missing:
        raise UsageError(
            f"the demo needs {', '.join(missing)}, not found in {os.getcwd()}",
            hint="run `batch-predict demo` in a checkout of the repository",
        )


def _upload(say: Say) -> None:
    body = SAMPLE.read_bytes()
    storage_for(INPUT).replace(INPUT, [body], len(body))
    say(f"1. Uploaded {SAMPLE} to {INPUT} ({len(body):,} bytes)")


def _train(say: Say) -> None:
    """Call the example's own `main`, so that the demo shows what a user would do."""
    said = StringIO()
    with redirect_stdout(said):
        runpy.run_path(str(TRAINING))["main"](["--root", ROOT])
    say(f"2. Trained with {TRAINING}: {said.getvalue().strip()}")


def _job() -> Job:
    from batch.job import load_job

    return load_job(str(JOB), root=ROOT, input=INPUT, output=OUTPUT)


def _score(progress: Callable[[int, int, int, float], None] | None) -> dict[str, Any]:
    from batch.execution import ended

    receipt: dict[str, Any] = ended.run(_job(), progress=progress).as_dict()
    return receipt


def first_lines(uri: str, lines: int) -> str:
    """The beginning of a small text object."""
    text = (storage_for(uri).get(uri) or b"").decode()
    return "".join(f"   {line}\n" for line in text.splitlines()[:lines]).rstrip("\n")


def _what_next(say: Say, environment: dict[str, str], *, keep: bool) -> None:
    if not keep:
        say("What to try next: `batch-predict demo --keep` leaves the server up for commands of your own.")
        return
    variables = {**environment, "BATCH_ROOT": ROOT}
    exports = "\n".join(f"   export {name}={value}" for name, value in variables.items())
    overrides = f"--input {INPUT} --output {OUTPUT}"
    say(
        f"What to try next, in another terminal:\n\n{exports}\n\n"
        f"   batch-predict run weekly_satisfaction {overrides}    (already done: scores nothing)\n"
        "   batch-predict runs\n   batch-predict show weekly-satisfaction@latest\n   batch-predict models show satisfaction\n\n"
        "The server stays up until Ctrl-C; its data goes with it."
    )


def _wait() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt as signalled:
        if (
            type(signalled) is not KeyboardInterrupt
        ):  # SIGTERM comes as a subclass: its exit code is the caller's business
            raise
