"""One spelling per place: ``s3://bucket/key`` or an absolute path."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from batch.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def normalise(uri: str, base: str = "") -> str:
    """`uri` with ``file://`` turned into a path and a relative path resolved against `base` (default: the working directory).

    A trailing slash is kept, because it marks a prefix. Raises `UsageError` for another scheme.
    """
    if uri.startswith("s3://"):
        if not uri[5:].split("/", 1)[0]:
            raise UsageError(f"'{uri}' names no bucket", hint="write s3://bucket/key")
        return uri
    if (scheme := _SCHEME.match(uri)) and scheme[1] != "file":
        raise UsageError(
            f"'{uri}' is neither an s3:// URI nor a path", hint="write s3://bucket/key, or ./ in front of a path"
        )
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else os.path.expanduser(uri)
    absolute = os.path.normpath(os.path.join(base or os.getcwd(), path))
    return absolute + "/" if path.endswith("/") and absolute != "/" else absolute


def join(root: str, *names: str) -> str:
    """`root` and `names` with one slash between them; `root` may or may not end in one."""
    return "/".join((root.rstrip("/"), *names))


def parent(uri: str) -> str:
    """Everything up to and including the last slash."""
    return uri[: uri.rfind("/") + 1]
