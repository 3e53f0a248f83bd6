"""A program in a network of its own, which has a loopback interface and nothing else.

    python -m tests.loopback COMMAND...

Ray opens ports on all interfaces whatever it is told; here nobody else can reach them, and everything it has started ends with it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

INSIDE = "TESTS_LOOPBACK"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


def command(*arguments: str) -> list[str]:
    """What to run to have `arguments` run in there; needs user namespaces, but no privileges."""
    namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid():
        namespaces.append("--map-root-user")
    return ["unshare", *namespaces, sys.executable, "-m", "tests.loopback", *arguments]


def main() -> None:
    """Inside: bring the interface up, and become the command."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    os.environ[INSIDE] = "1"
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
