"""The engine `ray`: its cases run in a network of their own, because Ray opens ports on all interfaces of a host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import loopback

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray() -> None:
    """What they say is this test's own message."""
    command = loopback.command(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", str(ROOT / "tests/ray_cases.py")
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout, done.stdout
