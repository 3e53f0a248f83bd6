"""Clients: where the store is, who asks, and how patient one request is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config


@dataclass(frozen=True, slots=True)
class Access:
    """An explicit endpoint with its key pair, for a client that must not look at the environment."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def make_client(access: Access | None, *, read_timeout_seconds: float = 60.0) -> Any:
    """Make a client; a custom endpoint gets path addressing and no checksums that older servers refuse."""
    session = boto3.session.Session(
        aws_access_key_id=access.access_key if access else None,
        aws_secret_access_key=access.secret_key if access else None,
    )
    # botocore reads AWS_DEFAULT_REGION alone; every other tool of the family lets AWS_REGION win.
    region = access.region if access else os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    endpoint = access.endpoint_url if access else None
    common: dict[str, Any] = {
        "max_pool_connections": 32,
        "connect_timeout": 5,
        "read_timeout": read_timeout_seconds,
        "retries": {"max_attempts": 3, "mode": "standard"},
    }
    if not endpoint and not (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        client = session.client("s3", region_name=region, config=Config(**common))
        if is_aws(client.meta.endpoint_url):
            return client
    style = (session._session.get_scoped_config().get("s3") or {}).get("addressing_style", "path")  # noqa: SLF001
    custom = Config(
        **common,
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=custom)


def is_aws(endpoint: str) -> bool:
    """Whether this is Amazon's own store, whose listings are in the order of keys."""
    return ".amazonaws.com" in endpoint
