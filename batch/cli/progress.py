"""How a run shows on stderr: a bar for people, JSON lines for machines, two lines for a log file."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

import click

from batch.cli.program import log_json


class Progress:
    """The start, the chunks and the end of one run, told on stderr."""

    def __init__(self, job: str, log_format: str) -> None:
        self._job = job
        self._json = log_format == "json"
        self._bar: Any = None
        self._rows_per_second = ""

    def __enter__(self) -> Self:
        self._tell("started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def update(self, chunks_done: int, chunks_total: int, rows: int, seconds: float) -> None:
        """Called by the runner after each chunk; `rows` and `seconds` count from the start of scoring."""
        if self._json:
            counts = {"chunks_done": chunks_done, "chunks_total": chunks_total}
            log_json("progress", job=self._job, **counts, rows=rows, seconds=round(seconds, 3))
        elif sys.stderr.isatty():
            self._draw(chunks_done, chunks_total, f"{rows / max(seconds, 1e-9):,.0f} rows/s")

    def notice(self, sentence: str) -> None:
        """Something that the run waits for."""
        self._close()
        if self._json:
            log_json("waiting", job=self._job, message=sentence)
        else:
            click.echo(f"{self._job}: {sentence}", err=True)

    def completed(self, receipt: dict[str, Any], *, already_done: bool) -> None:
        """The end line of a run that succeeded; a failure is told where errors are."""
        self._close()
        facts = {"run_id": receipt["run_id"], "state": receipt["state"], "rows": receipt["rows"]}
        self._tell("completed", **facts, already_done=already_done)

    def _draw(self, done: int, total: int, rate: str) -> None:
        self._rows_per_second = rate
        if self._bar is None:
            self._bar = click.progressbar(
                length=max(total, 1),
                label=self._job,
                file=sys.stderr,
                show_pos=True,
                item_show_func=lambda _: self._rows_per_second,
            )
            self._bar.render_progress()
        self._bar.update(done - self._bar.pos)
        if done >= total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None

    def _tell(self, event: str, **facts: Any) -> None:
        if self._json:
            log_json(event, job=self._job, **facts)
        else:
            run_id = f" {facts['run_id']}" if "run_id" in facts else ""
            click.echo(f"{self._job}: {event}{run_id}", err=True)
