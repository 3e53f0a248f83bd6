"""Fixtures of every test: a clean environment, an S3 server of our own, and one root per storage back end."""

import os
import uuid

# Before numpy is imported: on a busy machine OpenMP's threads spin against each other, and a fit takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import batch.storage
from batch.storage.embedded import EmbeddedS3
from tests import hypothesis_profiles  # noqa: F401 (loads the profile)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No test sees the caller's credentials or settings, nor another test's clients."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "BATCH_"))]:
        monkeypatch.delenv(name)
    batch.storage.open_storage.cache_clear()
    yield
    batch.storage.open_storage.cache_clear()


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 server (SeaweedFS) for the whole session."""
    with EmbeddedS3() as server:
        yield server


@pytest.fixture(scope="session")
def moto_url():
    """An S3 server in this process (moto) for the whole session: its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """The URI of a fresh bucket on SeaweedFS, ``s3://name``; the environment points there."""
    return _fresh_bucket(s3_server.environment(), monkeypatch)


@pytest.fixture(params=["local", "moto", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def any_root(request, monkeypatch, tmp_path):
    """A fresh, empty root on each back end, without a trailing slash."""
    if request.param == "local":
        return str(tmp_path)
    if request.param == "seaweedfs":
        return request.getfixturevalue("bucket")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    return _fresh_bucket({"AWS_ENDPOINT_URL": request.getfixturevalue("moto_url"), **keys}, monkeypatch)


def _fresh_bucket(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:16]}"
    batch.storage.open_storage("s3").create_bucket(name)
    return f"s3://{name}"
