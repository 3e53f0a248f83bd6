"""Runs of the command line as processes of their own, and what their whole tree held at most, as seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.execution.memory import tree_rss_bytes

MIB = 1 << 20
_SAMPLING_SECONDS = 0.01
_JOB = """
name = "memory"
root = "{root}"
model = "models:/{model}/1"
[input]
uri = "{source}"
id = "id"
max_bytes = "20GiB"
max_decompressed_bytes = "100GiB"
[output]
uri = "{output}"
{keep}
[run]
memory = "{ceiling}MiB"
engine = "{engine}"
"""


@dataclass(frozen=True)
class Seen:
    """How a run ended and the most that its processes held together."""

    exit_code: int
    receipt: dict[str, Any]
    stderr: str
    peak_bytes: int
    ceiling_bytes: int

    def check_kept(self, rows: int, rejected: int = 0) -> None:
        """All rows are accounted for, and neither from outside nor by its own word did the run go over its ceiling."""
        assert self.exit_code == 0, self.stderr
        assert self.receipt["rows"] == {"read": rows, "predicted": rows - rejected, "rejected": rejected}
        told = self.receipt["peak_rss_bytes"]
        assert 100 * MIB < self.peak_bytes <= self.ceiling_bytes, f"{self.peak_bytes / MIB:.0f} MiB were held"
        assert 100 * MIB < told <= self.ceiling_bytes, f"the receipt tells of {told / MIB:.0f} MiB"
        # Both sample: a moment that one of them misses may be some blocks and a batch.
        assert abs(told - self.peak_bytes) < 0.15 * self.peak_bytes, (told / MIB, self.peak_bytes / MIB)


def run(
    folder: Path,
    source: Path | str,
    output: str = "out.csv",
    *,
    root: str = "",
    model: str = "memory",
    ceiling: int = 1024,
    engine: str = "auto",
    keep: str = "",
    settings: tuple[str, ...] = (),
) -> Seen:
    """Score `source` under a ceiling in MiB; `root` (default: the folder) holds the model and gets the output."""
    root = root or str(folder)
    job = folder / "job.toml"
    names = {"root": root, "model": model, "source": source, "ceiling": ceiling, "engine": engine, "keep": keep}
    job.write_text(_JOB.format(output=f"{root}/{output}", **names))
    command = [str(Path(sys.executable).with_name("batch-predict")), "run", str(job), "--force", "--json"]
    command += [part for setting in settings for part in ("--set", setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        peaks = [0]
        sampler = threading.Thread(target=_sample, args=(process, peaks), daemon=True)
        sampler.start()
        document, said = process.communicate()
        sampler.join()
    return Seen(process.returncode, json.loads(document or "{}"), said, peaks[0], ceiling * MIB)


def _sample(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.returncode is None:
        peaks[0] = max(peaks[0], tree_rss_bytes(process.pid))
        time.sleep(_SAMPLING_SECONDS)
