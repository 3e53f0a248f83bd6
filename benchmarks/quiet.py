"""The same start for every program: nothing else to do for the machine, and the program's files in memory.

Files that were not used for some minutes leave the memory of this machine: with its libraries on the disk a run over 1,000 rows took 12 s in place
of 2. What a program leaves to be done (by the server, or writing to the disk) is not to be paid by the next one either.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

QUIET_SECONDS = 1.0
QUIET_SHARE = 0.95
"""Of the processor that is idle over that time."""
LIMIT_SECONDS = 60.0
READ_BYTES = 1 << 20


def settle() -> None:
    """Return when all is written out and the processor was idle for a second; after a minute in any case."""
    os.sync()
    deadline = time.monotonic() + LIMIT_SECONDS
    before = _ticks()
    while time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        after = _ticks()
        idle, total = after[0] - before[0], after[1] - before[1]
        if total and idle / total >= QUIET_SHARE:
            return
        before = after


def warm(program: str) -> None:
    """Read the libraries of the environment that a program is in, so that they come from memory afterwards."""
    libraries = Path(program).parent.parent / "lib"
    for path in libraries.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(READ_BYTES):
                    pass


def _ticks() -> tuple[int, int]:
    """(idle, all) ticks of all processors so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3], sum(fields)
