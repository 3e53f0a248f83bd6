"""Clients: where the store is, who asks, and how patient one request is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import Loader


@dataclass(frozen=True, slots=True)
class Access:
    """An explicit endpoint with its key pair, for a client that must not look at the environment."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


_before: ContextVar[Callable[[], None] | None] = ContextVar("before", default=None)
"""What this thread wants to be done before each attempt at its request."""


@contextmanager
def before_each_attempt(act: Callable[[], None] | None) -> Iterator[None]:
    """While entered, `act` is called before each request that this thread sends, also where botocore repeats one by itself.

    botocore repeats a request that had no answer, perhaps a minute later. What `act` raises comes out of the client's method.
    """
    token = _before.set(act)
    try:
        yield
    finally:
        _before.reset(token)


def _act_before(**_: Any) -> None:
    act = _before.get()
    if act is not None:
        with before_each_attempt(None):  # it may send requests itself
            act()


def make_client(
    access: Access | None, *, connect_timeout_seconds: float = 5.0, read_timeout_seconds: float = 60.0
) -> Any:
    """Make a client that heeds `before_each_attempt`; see `_made`."""
    client = _made(access, connect_timeout_seconds, read_timeout_seconds)
    client.meta.events.register_first("request-created.s3", _act_before)  # before it is signed
    return client


def _made(access: Access | None, connect_timeout_seconds: float, read_timeout_seconds: float) -> Any:
    """A client; a custom endpoint gets path addressing and no checksums that older servers refuse."""
    configured = botocore.session.Session()
    configured.register_component("data_loader", _descriptions())
    session = boto3.session.Session(
        botocore_session=configured,
        aws_access_key_id=access.access_key if access else None,
        aws_secret_access_key=access.secret_key if access else None,
    )
    # botocore reads AWS_DEFAULT_REGION alone; every other tool of the family lets AWS_REGION win.
    region = access.region if access else os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    endpoint = access.endpoint_url if access else None
    common: dict[str, Any] = {
        "max_pool_connections": 32,
        "connect_timeout": connect_timeout_seconds,
        "read_timeout": read_timeout_seconds,
        "retries": {"max_attempts": 3, "mode": "standard"},
    }
    if not endpoint and not (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        client = session.client("s3", region_name=region, config=Config(**common))
        if is_aws(client.meta.endpoint_url):
            return client
    style = (configured.get_scoped_config().get("s3") or {}).get("addressing_style", "path")
    custom = Config(
        **common,
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=custom)


@cache
def _descriptions() -> Loader:
    """The descriptions of S3 that botocore works by, read once: a new client takes 7 ms with them and 50 ms without."""
    return Loader()


def is_aws(endpoint: str) -> bool:
    """Whether this is Amazon's own store, whose listings are in the order of keys."""
    return ".amazonaws.com" in endpoint
