"""The programs that are compared, and one measured run of one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.storage import storage_for
from benchmarks import compare
from benchmarks.environments import WORK, EnvironmentFailed, our_python, python_of
from benchmarks.inputs import ROOT_URI, save_for_mlflow
from benchmarks.measured import ROOT, measure

JOB = """
name = "benchmark-{model}"
root = "{root}"
model = "models:/{model}/1"
[input]
uri = "{source}"
id = "id"
[output]
uri = "{target}"
replace = "any"
"""
LIMIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that does the same job."""

    name: str
    script: str
    environment: str
    note: str
    parts: bool = False
    """Whether it writes a folder of parts."""


PEERS = {
    one.name: one
    for one in (
        Peer("pandas", "pandas_whole", "pandas", "one script: read all, predict, write all; s3fs"),
        Peer("pandas-chunks", "pandas_chunks", "pandas", "read_csv(chunksize=100_000); s3fs"),
        Peer("dask", "dask_frame", "dask", "map_partitions, LocalCluster of 2 processes; writes parts", parts=True),
        Peer("polars", "polars_lazy", "polars", "scan, map_batches (streamable), sink_csv"),
        Peer("ray", "ray_data", "ray", "Ray Data map_batches with an actor; writes parts", parts=True),
        Peer("mlflow", "mlflow_cli", "mlflow", "download, `mlflow models predict`, upload; no ids in its output"),
        Peer("daft", "daft_udf", "daft", "class with a batch method; writes parts", parts=True),
        Peer("duckdb", "duckdb_udf", "duckdb", "read_csv and COPY over httpfs, Arrow function"),
        Peer("spark", "spark_udf", "spark", "download, pandas UDF on local[*], upload of the parts", parts=True),
    )
}
NAMES = ("ours", *PEERS)


@dataclass(frozen=True, slots=True)
class Case:
    """One input with one model."""

    shape: str
    rows: int
    model: str
    source: str
    model_path: Path

    @property
    def key(self) -> str:
        return f"{self.shape}/{self.rows}/{self.model}"

    @property
    def reference(self) -> Path:
        """Where our own rows are kept for the comparison."""
        return WORK / "references" / f"{self.key.replace('/', '-')}.npz"


def our_command(case: Case, *, target: str = "", options: Sequence[str] = ()) -> list[str]:
    """`batch-predict run` of a job file written for the case."""
    job = WORK / "jobs" / f"{case.key.replace('/', '-')}.toml"
    job.parent.mkdir(parents=True, exist_ok=True)
    target = target or f"{ROOT_URI}/out/ours-{case.model}.csv"
    job.write_text(JOB.format(model=case.model, root=ROOT_URI, source=case.source, target=target))
    program = str(Path(our_python()).with_name("batch-predict"))
    return [program, "run", str(job), "--force", *options]


def run(name: str, case: Case, round_number: int) -> dict[str, Any]:
    """One measured run; ``error`` says in a line why there is no result, ``difference`` how it is not ours."""
    target = f"{ROOT_URI}/out/{name}-{case.model}" + ("/" if name in PEERS and PEERS[name].parts else ".csv")
    _clear(target)
    try:
        command = our_command(case, target=target) if name == "ours" else _peer_command(PEERS[name], case, target)
    except EnvironmentFailed as error:
        return {"error": f"cannot be installed: {error}"[:300]}
    log = WORK / "logs" / f"{case.key.replace('/', '-')}-{name}-{round_number}.log"
    figures = measure(command, environment(), LIMIT_SECONDS, log)
    if figures["code"] != 0:
        return figures | {"error": _reason(figures["code"], log)}
    try:
        rows = compare.read(target)
    except Exception as error:  # whatever a program may have left there is a finding, not our failure
        return figures | {"error": f"its output cannot be read: {error}"[:300]}
    if name == "ours":
        case.reference.parent.mkdir(parents=True, exist_ok=True)
        rows.save(case.reference)
    differs = compare.difference(compare.saved(case.reference), rows)
    return figures | {"difference": differs, "in_order": rows.in_order}


def _peer_command(peer: Peer, case: Case, target: str) -> list[str]:
    if peer.name == "mlflow":
        save_for_mlflow(case.model_path)
    script = str(ROOT / "benchmarks" / "peers" / f"{peer.script}.py")
    return [python_of(peer.environment), script, case.source, target, str(case.model_path)]


def environment() -> dict[str, str]:
    """Nobody is told how many threads to use, and nobody phones home."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    kept.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # installed programs have their byte code; ours, which is run from its sources, too
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | quiet | {"PYTHONWARNINGS": "ignore", "SCARF_NO_ANALYTICS": "true"}


def _clear(target: str) -> None:
    storage = storage_for(target)
    for info in list(storage.list(target)):
        storage.delete(info.uri)


def _reason(code: int | None, log: Path) -> str:
    """The line of the log that says most: the last one that names an error."""
    if code is None:
        return f"not done within {LIMIT_SECONDS:.0f} s"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Exception" in line or line.startswith("error")]
    return (telling or lines or [f"ended with {code}"])[-1][:300]
