"""What the profile costs that every run makes of its rows: the same run with and without it.

    python -m benchmarks.profiles                    # 1,000,000 rows, 9 rounds

There is no switch for it, so the runs without put one that counts nothing in its place, and all runs are made in this process, in turn. A ratio is
taken within its round. The input has 16 features, 2 of them texts, and is told by one of 4 groups.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import batch
from batch.execution import score
from batch.storage import storage_for
from batch.storage.embedded import EmbeddedS3
from benchmarks.memory import JOB, register, write_input


class Nothing:
    """A profiler that counts nothing."""

    def add(self, *_: Any) -> None:
        """Take in rows."""

    def section(self) -> bytes:
        """Of a chunk: empty."""
        return b""


def timed(folder: Path, root: str, profiled: bool) -> tuple[float, float]:
    """Wall and processor seconds of one run, without the start of a process."""
    text = JOB.format(root=root, memory="1GiB", engine="threads") + '[report]\ngroup_by = "region"\n'
    (folder / "job.toml").write_text(text)
    job = batch.load_job(str(folder / "job.toml"), input=f"{root}/in.csv")
    began, used = time.monotonic(), time.process_time()
    if profiled:
        batch.run(job, force=True)
    else:
        with mock.patch.object(score, "make_profiler", return_value=Nothing()):
            batch.run(job, force=True)
    return time.monotonic() - began, time.process_time() - used


def main() -> None:
    """Print the medians and the median ratio of both."""
    parser = argparse.ArgumentParser(description="What the profile costs.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--s3", action="store_true", help="on SeaweedFS on this machine instead of local files")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        write_input(folder / "in.csv", options.rows)
        root = str(folder)
        if options.s3:
            server = stack.enter_context(EmbeddedS3(memory="4GiB"))
            os.environ.update(server.environment())
            server.create_bucket("benchmark")
            root, body = "s3://benchmark", (folder / "in.csv").read_bytes()
            storage_for(root).replace(f"{root}/in.csv", [body], len(body))
        register(root)
        timed(folder, root, profiled=True)  # the first run loads libraries
        rounds = [
            (timed(folder, root, profiled=False), timed(folder, root, profiled=True)) for _ in range(options.rounds)
        ]
    for number, what in enumerate(("wall", "processor")):
        without, with_it = ([each[side][number] for each in rounds] for side in (0, 1))
        ratio = statistics.median(two / one for one, two in zip(without, with_it, strict=True))
        print(
            f"{what:<10} without {statistics.median(without):5.2f} s   with {statistics.median(with_it):5.2f} s   {ratio:.3f} x"
        )


if __name__ == "__main__":
    main()
