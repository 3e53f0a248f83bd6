"""The engine `ray` on real processes. Run by `tests/test_ray.py` in a network of its own; see there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.errors import EngineUnavailable
from tests import clusters, loopback

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]
OWN = {"run__engine": "ray", "run__workers": 2}


@pytest.fixture(autouse=True)
def only_inside() -> None:
    assert os.environ.get(loopback.INSIDE), "Ray's ports would be open to everybody: run tests/test_ray.py"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each, as processes of their own."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    made.kill_one = lambda: made.remove_node(nodes.pop(), allow_graceful=False)
    yield made
    made.shutdown()


def at(cluster: Any) -> dict[str, Any]:
    return {"run__engine": "ray", "run__scheduler": cluster.address}


def test_a_ray_of_our_own_writes_the_same_bytes(bucket: str, tmp_path: Path) -> None:
    clusters.same_bytes_as_inline(bucket, tmp_path, **OWN)


def test_a_chunk_that_kills_its_worker_is_blamed(tmp_path: Path) -> None:
    clusters.blames_the_chunk(tmp_path, **OWN)


def test_a_killed_node_is_not_missed(cluster: Any, tmp_path: Path) -> None:
    kill: Callable[[], None] = cluster.kill_one
    receipt = clusters.survives(tmp_path, kill, **at(cluster))
    assert (receipt["engine"], receipt["workers"], receipt["chunks"]["reused"]) == ("ray", 2, 0)


def test_no_cluster_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="the Ray cluster at auto does not answer"):
        clusters.survives(tmp_path, lambda: None, run__engine="ray", run__scheduler="auto")
