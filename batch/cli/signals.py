"""SIGTERM and Ctrl-C: the program tidies up, and ends in time even where it cannot."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from batch.errors import Terminated

GRACE_SECONDS = 7.0
"""After a signal; whoever sent it mostly kills after ten."""
_RELEASE_SECONDS = 1.0
_SIGNALLED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
_MAIN = threading.main_thread()


def catch_signals() -> None:
    """Let SIGTERM end the program the way Ctrl-C does, and let neither wait for a call that does not come back."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # A handler runs when the main thread comes back to Python, which a model call or a stalled read may not do for long.
    # The number of the signal is written to this socket at once.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader, writer), name="signals", daemon=True).start()


def leave_threads_behind(exit_code: object) -> None:
    """End now if a signal ended the run while a chunk is still under way: the interpreter would wait for its thread."""
    if exit_code in _SIGNALLED and any(not one.daemon for one in threading.enumerate() if one is not _MAIN):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(str(exit_code)))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal ends the program; a second one would only disturb what it still has to tidy up."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _end_in_time(reader: socket.socket, keep: socket.socket) -> None:
    """Wait for a signal, give the program its time, then end it; what it leaves is resumed by the next run."""
    while (number := reader.recv(1)[0]) not in {signal.SIGTERM, signal.SIGINT}:
        pass
    time.sleep(GRACE_SECONDS)
    if lease := sys.modules.get("batch.execution.lease"):
        releasing = threading.Thread(target=lease.release_all, daemon=True)
        releasing.start()
        releasing.join(_RELEASE_SECONDS)
    os.write(2, b"error: what was under way did not stop in time and was dropped\nhint: run the same command again\n")
    os._exit(128 + number)
