"""batch-predict against other ways to do the same: time, processor seconds and memory, and whether the predictions are equal.

    python -m benchmarks.bench                                    # everything, at 2,000,000 rows
    python -m benchmarks.bench --rows 100000 --rounds 1 --peers ours,pandas
    python -m benchmarks.bench --write                            # RESULTS.md and results.svg again from results.json

Every run is a process of its own against an S3 server on this machine. The programs run in turn, round by round, so that what else
goes on hits all alike; one that failed or took long is not repeated. A finished measurement is kept in data/bench/ and a failed one is tried
again; `--fresh` forgets all of them, as it should after a change of the product.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from batch.storage.embedded import EmbeddedS3
from benchmarks import cases, programs, roofline, writer
from benchmarks.environments import WORK, EnvironmentFailed, python_of, versions_of
from benchmarks.inputs import BUCKET, MODELS, WIDE_SHARE, make_file, register, upload
from benchmarks.measured import ROOT
from benchmarks.programs import NAMES, Case
from benchmarks.state import State

SHAPES = ("csv", "parquet", "wide")
PARTS = ("peers", "roofline", "cases")
# The slower the model, the less is left of what tells the programs apart: fewer of them, once.
FEWER = {"boosting": NAMES[:5], "forest": ("ours", "pandas", "dask")}
FEWER_SHAPES = ("ours", "pandas", "polars", "dask")
LONG_FACTOR = 10
REPEATED_BELOW_SECONDS = 40.0
"""A program that takes longer is measured once: noise does not hide how it compares."""


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="batch-predict against other ways to do the same.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument(
        "--rounds", type=int, default=3, help="for the logistic regression over CSV; the others one less"
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--inputs", default=",".join(SHAPES), help="parquet and wide only with the logistic regression")
    parser.add_argument("--peers", "--only", default="", help=f"of {','.join(NAMES)}")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--long", action="store_true", help="also ten times the rows, of ours alone")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="where the results go")
    options = parser.parse_args(arguments)
    options.models = chosen(options.models, MODELS)
    options.inputs = chosen(options.inputs, SHAPES)
    options.peers = chosen(options.peers, NAMES) if options.peers else []
    options.parts = chosen(options.parts, PARTS)
    return options


def chosen(given: str, allowed: Sequence[str]) -> list[str]:
    """The names of a list with commas, in the order they are known by."""
    names = given.split(",")
    if unknown := set(names) - set(allowed):
        raise SystemExit(f"{', '.join(sorted(unknown))}: not one of {', '.join(allowed)}")
    return [name for name in allowed if name in names]


@contextmanager
def server() -> Iterator[None]:
    """An S3 server of our own with an empty bucket; the environment points at it."""
    with EmbeddedS3(memory="4GiB") as running:
        os.environ.update(running.environment())
        running.create_bucket(BUCKET)
        yield


def matrix(options: argparse.Namespace) -> Iterator[tuple[str, str, list[str], int]]:
    """(shape, model, programs, rounds) of everything that is to be compared."""
    for model in options.models:
        for shape in options.inputs if model == "logistic" else ["csv"]:
            usual = FEWER_SHAPES if shape != "csv" else FEWER.get(model, NAMES)
            rounds = options.rounds if (model, shape) == ("logistic", "csv") else max(1, options.rounds - 1)
            yield shape, "wide" if shape == "wide" else model, options.peers or list(usual), rounds


def compare_peers(options: argparse.Namespace, state: State) -> None:
    """Run the matrix, round by round."""
    for shape, model, names, rounds in matrix(options):
        case = prepare(shape, options.rows, model)
        for number in range(1, rounds + 1):
            for name in names:
                if number == 1 or repeated(state, case, name):
                    measure_one(state, case, name, number)


def repeated(state: State, case: Case, name: str) -> bool:
    """Whether a program's first round is worth another: it came to an end, and not after minutes."""
    first = state.runs.get(f"peers/{case.key}/{name}/1", {})
    return not first.get("error") and first.get("wall", 0.0) < REPEATED_BELOW_SECONDS


@cache
def prepare(shape: str, rows: int, model: str) -> Case:
    """The input in the bucket and the model in the registry, tried once."""
    path = make_file(shape, rows)
    return Case(shape, int(path.stem.rsplit("-", 1)[1]), model, upload(path), registered(shape, model))


@cache
def registered(shape: str, model: str) -> Path:
    """The model, after a run over a few rows: the very first run with a version also tries it in a process of its own."""
    model_path = register(model)
    few = make_file(shape, WIDE_SHARE * cases.SMALL if shape == "wide" else cases.SMALL)
    programs.run("ours", Case(shape, cases.SMALL, model, upload(few), model_path), 0)
    return model_path


def measure_one(state: State, case: Case, name: str, number: int) -> None:
    """Measure unless it was measured; say it in a line."""
    key = f"peers/{case.key}/{name}/{number}"
    if key in state.runs and not state.runs[key].get("error"):
        return
    if name != "ours" and not case.reference.exists():
        programs.run("ours", case, 0)  # only to compare with
    if name != "ours" and name not in state.found["versions"]:
        try:
            state.found["versions"][name] = versions_of(python_of(programs.PEERS[name].environment))
        except EnvironmentFailed as error:
            state.put(key, {"error": f"cannot be installed: {error}"[:300]})
            return
    figures = state.put(key, programs.run(name, case, number))
    say(key, figures.get("error") or f"{figures['wall']:.1f} s, {figures['cpu']:.1f} s of processor, "
        f"{figures['peak_pss'] / 2**20:.0f} MiB  {figures['difference']}")  # fmt: skip


def say(key: str, what: str) -> None:
    """A line of progress."""
    print(f"{key:<44} {what}", flush=True)


def measure(options: argparse.Namespace, state: State) -> None:
    """Everything that was asked for."""
    with server():
        if "peers" in options.parts:
            compare_peers(options, state)
        if "roofline" in options.parts:
            for model in options.models:
                rounds = options.rounds if model == "logistic" else max(1, options.rounds - 1)
                roofline.measure(state, prepare("csv", options.rows, model), rounds)
        if "cases" in options.parts:
            cases.measure(state, prepare, options.rows, long_rows=options.rows * LONG_FACTOR if options.long else 0)


def main() -> None:
    """Measure what is missing and write the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server does not outlive us
    options = options_of()
    raw = options.out / "results.json"
    if not options.write:
        state = State(WORK / "results.json", fresh=options.fresh)
        state.describe(" ".join(["python -m benchmarks.bench", *sys.argv[1:]]))
        try:
            measure(options, state)
        finally:
            options.out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(state.path, raw)
            writer.write(raw, options.out)
    else:
        writer.write(raw, options.out)
    print(f"written: {options.out / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
