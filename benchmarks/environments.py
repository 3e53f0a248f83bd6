"""The virtual environments: of the peers one requirement line each, ours from the lock, made on first use below ``data/bench/envs``.

Where a peer allows them, the libraries that read, predict and write are of the same versions as ours.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version

from benchmarks.measured import ROOT

WORK = ROOT / "data" / "bench"
SHARED = ("numpy", "pandas", "scipy", "scikit-learn", "joblib")
"""Of the same version as in our own environment."""
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pandas": ("pyarrow==26.0.1", "s3fs==2026.9.0"),
    "dask": ("pyarrow==26.0.1", "dask[dataframe,distributed]==2026.8.0", "s3fs==2026.9.0"),
    "polars": ("pyarrow==26.0.1", "polars==2.1.0"),
    "ray": ("pyarrow==26.0.1", "ray[data]==2.60.0"),
    "mlflow": ("mlflow==3.17.2", "boto3==1.44.5"),
    "daft": ("daft==0.7.26",),
    # httpfs comes as a package of its own, which is built for this one version of duckdb.
    "duckdb": ("pyarrow==26.0.1", "duckdb==1.5.5", "duckdb-extension-httpfs==1.5.5"),
    "spark": ("pyarrow==26.0.1", "pyspark==4.3.0", "boto3==1.44.5"),
}
TOLD = (*SHARED, "pyarrow", "dask", "polars", "ray", "mlflow", "daft", "duckdb", "pyspark", "s3fs", "boto3")


class EnvironmentFailed(Exception):
    """An environment could not be made; the message is the installer's last line."""


def python_of(name: str) -> str:
    """The interpreter of a peer's environment, made if it is not there or its requirements have changed."""
    wanted = [*(f"{one}=={version(one)}" for one in SHARED), *REQUIREMENTS[name]]
    return _made(name, "\n".join(wanted), [wanted])


@cache
def our_python() -> str:
    """The interpreter of an environment as users have it: the developers' own also holds what pytest, Dask and Ray bring along."""
    lock = ROOT / "requirements" / "core.txt"
    product = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    metadata = lock.read_text() + (ROOT / "setup.cfg").read_text()
    return _made("ours", metadata, [["--require-hashes", "-r", str(lock)], product])


def _made(name: str, identity: str, installs: Sequence[Sequence[str]]) -> str:
    """The interpreter of an environment with what one `pip install` after the other puts there. Raises `EnvironmentFailed`."""
    folder = WORK / "envs" / name
    stamp, python = folder / ".requirements", folder / "bin" / "python"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != digest:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for wanted in installs:
            command = [str(python), "-m", "pip", "install", "-q", *wanted]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EnvironmentFailed((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        stamp.write_text(digest)
    return str(python)


def versions_of(python: str) -> dict[str, str]:
    """The versions in an environment of the libraries that matter here."""
    program = (
        "import importlib.metadata as m, json, sys\nfound = {d.name.lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    done = subprocess.run([python, "-c", program, *TOLD], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
