"""Fixtures of every test: a clean environment, an S3 server of our own, and one root per storage back end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

# Before numpy is imported: on a busy machine OpenMP's threads spin against each other, and a fit takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import batch.storage
from batch.storage.embedded import EmbeddedS3
from tests import hypothesis_profiles  # noqa: F401 (loads the profile)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the caller's credentials or settings, nor another test's clients."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "BATCH_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    batch.storage.open_storage.cache_clear()
    yield
    batch.storage.open_storage.cache_clear()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[EmbeddedS3]:
    """A real S3 server (SeaweedFS) for the whole session."""
    with EmbeddedS3(memory="2GiB") as server:
        yield server


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The URI of a registered bundle of the tiny model, in a folder."""
    from tests.run_cases import register

    return register(str(tmp_path_factory.mktemp("model")))


@pytest.fixture
def bench(tmp_path, model):
    """A root in a folder, with the customers as ``in.csv``."""
    from tests.run_cases import Bench, encode, rows

    made = Bench(str(tmp_path), model, tmp_path)
    made.put("in.csv", encode(rows(), "csv"))
    return made


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """An S3 server in this process (moto) for the whole session: its endpoint."""
    from moto.moto_server.threaded_moto_server import MotoRequestHandler
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_creator_at_a_time(environ: dict[str, Any], start_response: Any) -> Any:
        """Moto looks first and stores then, so that of two creators at the same instant both may win: the probe rightly refuses it."""
        is_conditional = "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ
        with turn if environ["REQUEST_METHOD"] == "PUT" and is_conditional else nullcontext():
            return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, one_creator_at_a_time, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket(s3_server: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a fresh bucket on SeaweedFS, ``s3://name``; the environment points there."""
    from batch.storage.s3 import S3Storage

    uri = _fresh_bucket(s3_server.environment(), monkeypatch)
    # A client of its own: the test may point the environment elsewhere.
    client = S3Storage().connection.client()
    yield uri
    # With its objects. A bucket holds volumes of the server, which has no more than some dozens of them.
    client.delete_bucket(Bucket=uri.removeprefix("s3://"))


@pytest.fixture
def moto_bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a fresh bucket on moto; the environment points there."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    return _fresh_bucket({"AWS_ENDPOINT_URL": moto_url, **keys}, monkeypatch)


BACK_ENDS = ["local", "moto", pytest.param("seaweedfs", marks=pytest.mark.s3)]


@pytest.fixture(params=BACK_ENDS)
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty root on each back end that creates an object once, without a trailing slash."""
    return _fresh_root(request, tmp_path)


@pytest.fixture(params=[*BACK_ENDS, "nanio"])
def every_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, and one on a store that ignores conditions: for promises that do not rest on them."""
    return _fresh_root(request, tmp_path)


@pytest.fixture(scope="session")
def unconditional_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server (nanio) that silently ignores If-None-Match and If-Match: the variables that point there."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    environment = os.environ | {"NANIO_ACCESS_KEY": "test", "NANIO_SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"]}
    server, port = _nanio(environment, str(tmp_path_factory.mktemp("nanio")))
    try:
        yield {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1", **keys}
    finally:
        server.kill()
        server.wait()


def _nanio(environment: dict[str, str], folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers, and its port; another program may take a free port before it does, so there are some tries."""
    for _ in range(5):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        options = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", folder, "--no-access-log"]
        command = [sys.executable, "-m", "nanio", "serve", *options, "--log-level", "error"]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if _answers(server, port):
            return server, port
        server.kill()
        server.wait()
    raise AssertionError("nanio did not come up in five tries")


@pytest.fixture
def unconditional_root(unconditional_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a fresh bucket on a store that ignores conditions; the environment points there."""
    return _fresh_bucket(unconditional_environment, monkeypatch)


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(1200):
        if server.poll() is not None:
            return False
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _fresh_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    fixtures = {"moto": "moto_bucket", "seaweedfs": "bucket", "nanio": "unconditional_root"}
    return str(request.getfixturevalue(fixtures[request.param]))


def _fresh_bucket(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    from batch.storage.s3 import create_bucket

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:16]}"
    create_bucket(name)
    return f"s3://{name}"
