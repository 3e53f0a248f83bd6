"""One spelling per place: ``s3://bucket/key`` or an absolute path."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit


def normalise(uri: str, base: str = "") -> str:
    """`uri` with ``file://`` turned into a path and a relative path resolved against `base` (default: the working directory).

    A trailing slash is kept, because it marks a prefix.
    """
    if uri.startswith("s3://"):
        return uri
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else os.path.expanduser(uri)
    absolute = os.path.normpath(os.path.join(base or os.getcwd(), path))
    return absolute + "/" if path.endswith("/") and absolute != "/" else absolute


def join(root: str, *names: str) -> str:
    """`root` and `names` with one slash between them; `root` may or may not end in one."""
    return "/".join((root.rstrip("/"), *names))


def parent(uri: str) -> str:
    """Everything up to and including the last slash."""
    return uri[: uri.rfind("/") + 1]
