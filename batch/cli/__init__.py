"""The command line: each command parses, calls one function of the library and prints what it returns."""

from __future__ import annotations

import gc

import click

import batch
from batch.cli import compare, evaluate, models, monitor, report, runs, schedule, score, triggers, upkeep
from batch.cli.program import Program
from batch.cli.signals import catch_signals, leave_threads_behind
from batch.execution.process import collect_rarely


@click.group(cls=Program, name="batch-predict", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batch.__version__, prog_name="batch-predict")
def program() -> None:
    """Score files in S3-compatible storage with a scikit-learn model: whole or not at all, every row accounted for."""


program.add_command(score.run)
program.add_command(score.check)
program.add_command(score.retry)
program.add_command(runs.runs)
program.add_command(runs.show)
program.add_command(upkeep.verify)
program.add_command(compare.diff)
program.add_command(evaluate.evaluate)
program.add_command(upkeep.clean)
program.add_command(upkeep.doctor)
program.add_command(schedule.schedule)
program.add_command(triggers.watch)
program.add_command(triggers.backfill)
models.models.add_command(compare.compare)
program.add_command(models.models)
program.add_command(report.report)
program.add_command(monitor.monitor)
program.add_command(score.demo)


def main() -> None:
    """The entry point: run the command of ``sys.argv`` and exit with its code."""
    catch_signals()
    collect_rarely()
    try:
        program.main(prog_name="batch-predict")
    except SystemExit as ended:
        leave_threads_behind(ended.code)
        raise
    finally:
        gc.freeze()  # the memory goes with the process: a last search through all of it would take 0.4 s
