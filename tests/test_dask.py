"""The engine `dask` on real processes: a scheduler and workers with nannies as an operator starts them, and one of our own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

import batch
from batch.errors import EngineUnavailable
from tests import clusters
from tests.deadly import Slow, deadly_bench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
OWN = {"run__engine": "dask", "run__workers": 2}


class Cluster:
    """Processes of Dask's own commands, each the leader of a group, so that a node can be killed whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.scheduler, self.address = self._start("scheduler", options, r"Scheduler at:\s+(tcp://\S+)")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_node(self) -> None:
        """A nanny with one worker process."""
        options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(self._folder)]
        self.nodes.append(self._start("worker", [self.address, *options], r"Registered to:\s+(tcp://\S+)")[0])

    def kill_node(self) -> None:
        """Nanny and worker at once, as when a host goes down."""
        self.kill(self.nodes.pop())

    def kill_worker(self) -> None:
        """One worker process; its nanny starts another."""
        of_threads = Path(f"/proc/{self.nodes[0].pid}/task").glob("*/children")
        children = [pid for file in of_threads for pid in file.read_text().split()]
        (worker,) = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(worker), signal.SIGKILL)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _start(self, command: str, options: list[str], says: str) -> tuple[subprocess.Popen[bytes], str]:
        """A process that has said what it says when it is ready, and what it said."""
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        path = self._folder / f"{command}-{len(self.nodes)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *options],
                stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip
        self._stack.callback(self._end, process)
        for _ in range(600):
            if found := re.search(says, path.read_text()):
                return process, found[1]
            assert process.poll() is None, path.read_text()
            time.sleep(0.1)
        raise AssertionError(path.read_text())

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self.kill(process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes with one worker each."""
    folder = tmp_path / "dask"
    folder.mkdir()
    with Cluster(folder) as made:
        made.add_node()
        made.add_node()
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that does not answer is given up sooner."""
    from batch.execution import on_dask

    monkeypatch.setattr(on_dask, "CONNECT_SECONDS", 5.0)


def at(cluster: Cluster) -> dict[str, Any]:
    return {"run__engine": "dask", "run__scheduler": cluster.address}


def test_a_cluster_of_our_own_writes_the_same_bytes(tmp_path: Path) -> None:
    """Without a scheduler in the job, worker processes are started on this host."""
    clusters.same_bytes_as_inline(str(tmp_path / "root"), tmp_path, **OWN)


@pytest.mark.s3
def test_a_cluster_that_is_there_reads_and_stores_for_itself(
    cluster_on_s3: Cluster, bucket: str, tmp_path: Path
) -> None:
    """On S3: the workers have the credentials in their environment."""
    clusters.same_bytes_as_inline(bucket, tmp_path, **at(cluster_on_s3))


@pytest.fixture
def cluster_on_s3(bucket: str, cluster: Cluster) -> Cluster:
    """Its processes are started with the environment that leads to the bucket."""
    return cluster


def test_a_chunk_that_kills_its_worker_is_blamed(tmp_path: Path) -> None:
    clusters.blames_the_chunk(tmp_path, **OWN)


def test_a_killed_worker_costs_its_chunk_only(cluster: Cluster, tmp_path: Path) -> None:
    receipt = clusters.survives(tmp_path, cluster.kill_worker, **at(cluster))
    assert (receipt["engine"], receipt["workers"], receipt["chunks"]["reused"]) == ("dask", 2, 0)


def test_a_killed_node_is_not_missed(cluster: Cluster, tmp_path: Path) -> None:
    clusters.survives(tmp_path, cluster.kill_node, **at(cluster))


def test_a_scheduler_that_is_gone_ends_the_run_which_goes_on_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    """Exit code 69, and the same run on another engine finds what was scored."""
    with pytest.raises(EngineUnavailable, match=r"the Dask scheduler at tcp://127\.0\.0\.1:") as caught:
        clusters.survives(tmp_path, lambda: cluster.kill(cluster.scheduler), **at(cluster))
    assert (caught.value.exit_code, caught.value.receipt["state"]) == (69, "failed")  # type: ignore[index]
    _, settings = deadly_bench(tmp_path / "again", Slow())  # the same pinned model
    job = batch.load_job(str(tmp_path / "shaken" / "weekly.toml"), set=_dotted(settings | clusters.CHUNKS))
    receipt = batch.run(job).as_dict()
    assert receipt["chunks"]["reused"] >= 3
    assert receipt["rows"]["predicted"] == 400


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in settings.items()}


def test_ctrl_c_is_told_once(tmp_path: Path) -> None:
    """It reaches the workers of our own cluster too, which are in the same process group: they leave it to the coordinator."""
    bench, settings = deadly_bench(tmp_path, Slow())
    bench.job("in.csv", "out.csv")
    values = {name: json.dumps(value) for name, value in _dotted(settings | clusters.CHUNKS | OWN).items()}
    options = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "batch", "run", str(tmp_path / "weekly.toml"), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/weekly/*/chunks/*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in said, "error: interrupted" in said) == (130, False, True), said


def test_no_scheduler_there(tmp_path: Path) -> None:
    """Told at once, with what to look at."""
    with pytest.raises(EngineUnavailable, match=r"the Dask scheduler at tcp://127\.0\.0\.1:1 does not answer"):
        clusters.survives(tmp_path, lambda: None, run__engine="dask", run__scheduler="tcp://127.0.0.1:1")
