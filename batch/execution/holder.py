"""Who holds a lease: a process, described so that another one on the same host can see whether it still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Holder:
    """One process. The fields are empty where the system does not tell them, and then prove nothing."""

    host: str
    boot_id: str
    """Of this start of this machine: pids of another one mean nothing."""
    pid_namespace: str
    """Of this container: the same pid is another process in another one."""
    pid: int
    started: str
    """Clock ticks from boot to the start of the process: pids are used again."""

    @classmethod
    def myself(cls) -> Self:
        """The running process."""
        return cls(socket.gethostname(), _boot_id(), _pid_namespace(), os.getpid(), _started(os.getpid()))

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{name: document[name] for name in ("host", "boot_id", "pid_namespace", "pid", "started")})

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def is_dead(self) -> bool:
        """Whether it is certain that the process is gone; False also where it cannot be known from here."""
        here = bool(self.boot_id and self.started) and self.boot_id == _boot_id()
        return here and self.pid_namespace == _pid_namespace() and _started(self.pid) != self.started


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of /proc/PID/stat; a process that ended and was not yet waited for counts as gone."""
    # The name of the program may hold spaces and brackets, so count from the last one.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
