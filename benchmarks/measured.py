"""One command as a process tree of its own: wall and processor seconds, peak memory, and an end to whatever it leaves behind.

    python -m benchmarks.measured REPORT LIMIT COMMAND...

This process adopts what its descendants orphan (a subreaper), so daemons that a command leaves behind (Ray, Spark) are ended and waited for
here as well, and none of them outlives the run.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.quiet import settle, warm

ROOT = Path(__file__).resolve().parents[1]
SAMPLING_SECONDS = 0.1
SAMPLING_SHARE = 20
"""A sample may cost one twentieth of the time between two."""
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(command: Sequence[str], environment: Mapping[str, str], limit: float, log: Path) -> dict[str, Any]:
    """Run a command with this environment, from memory and when the machine is quiet; its output goes to `log`.

    Gives ``code`` (None: over the limit of seconds), ``wall``, ``cpu``, ``peak_rss`` and ``peak_pss`` (bytes, of the whole tree).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    warm(command[0])
    settle()
    with tempfile.TemporaryDirectory(prefix="measured-") as folder, log.open("wb") as out:
        report = Path(folder, "report.json")
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measured", str(report), str(limit), *command],
            cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                process.wait()
            except BaseException:
                process.terminate()  # it ends its tree first
                raise
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def descendants(pid: int) -> list[int]:
    """All processes below this one, itself left out."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):  # it ended meanwhile
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += [int(child) for child in Path(f"/proc/{one}/task/{task}/children").read_text().split()]
        if one != pid:
            found.append(one)
    return found


def memory_of(pids: Sequence[int]) -> tuple[int, int]:
    """(RSS, PSS) in bytes. PSS counts a page that several processes share once in all, RSS once for each."""
    resident = proportional = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    proportional += int(line.split()[1]) * 1024
    return resident, proportional


def seconds_of(pid: int) -> float:
    """User and system seconds of one process so far, its children left out."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _watch(done: threading.Event, peaks: list[int], seconds: dict[int, float]) -> None:
    """Keep the peaks, and the last processor seconds seen of every process, up to date."""
    pause = SAMPLING_SECONDS
    while not done.wait(pause):
        began = time.monotonic()
        pids = descendants(os.getpid())
        peaks[:] = [max(pair) for pair in zip(peaks, memory_of(pids), strict=True)]
        for pid in pids:
            seconds[pid] = max(seconds.get(pid, 0.0), seconds_of(pid))
        pause = max(SAMPLING_SECONDS, SAMPLING_SHARE * (time.monotonic() - began))


def _wait(pid: int, limit: float) -> int | None:
    """The exit code of our own child, or None when its time is over; orphans are reaped on the way."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
        if not ended:
            time.sleep(0.005)
    return None


def _end_all() -> None:
    """End what is left of the tree and reap it, so that it is in the count."""
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _leave(*_: Any) -> None:
    _end_all()
    os._exit(143)


def main() -> None:
    """Run the command and write the report."""
    report, limit, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, _leave)
    done, peaks = threading.Event(), [0, 0]
    seconds: dict[int, float] = {}
    watcher = threading.Thread(target=_watch, args=(done, peaks, seconds))
    began = time.monotonic()
    child = subprocess.Popen(command)  # reaped in `_wait`, together with orphans
    watcher.start()
    code = _wait(child.pid, float(limit))
    wall = time.monotonic() - began
    done.set()
    watcher.join()
    _end_all()
    used = os.times()
    # A parent that ignores the end of its children (Ray's raylet) keeps them out of the kernel's count: then the samples know more.
    cpu = max(used.children_user + used.children_system, sum(seconds.values()))
    found = {"code": code, "wall": wall, "cpu": cpu, "peak_rss": peaks[0], "peak_pss": peaks[1]}
    Path(report).write_text(json.dumps(found))
    os._exit(0)  # the Popen object would wait for a child that is reaped already


if __name__ == "__main__":
    main()
