"""The engine `dask` on real processes: a scheduler and workers with nannies as an operator starts them, and one of our own."""

from __future__ import annotations

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
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._said(self.scheduler, r"Scheduler at:\s+(tcp://\S+)")

    def add_node(self) -> None:
        """A nanny with one worker process."""
        options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(self._folder)]
        node = self._start("worker", self.address, *options)
        self._said(node, r"Registered to:\s+(tcp://\S+)")
        self.nodes.append(node)

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

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        command = (sys.executable, "-m", "dask", *command)
        with self._log.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        self._stack.callback(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self.kill(process)

    @property
    def _log(self) -> Path:
        """Of the process that is started next."""
        return self._folder / f"{len(self.nodes)}-{hasattr(self, 'address')}.log"

    def _said(self, process: subprocess.Popen[bytes], pattern: str) -> str:
        log = self._log
        for _ in range(600):
            if found := re.search(pattern, log.read_text()):
                return found[1]
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


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


def test_no_scheduler_there(tmp_path: Path) -> None:
    """Told at once, with what to look at."""
    with pytest.raises(EngineUnavailable, match=r"the Dask scheduler at tcp://127\.0\.0\.1:1 does not answer"):
        clusters.survives(tmp_path, lambda: None, run__engine="dask", run__scheduler="tcp://127.0.0.1:1")
