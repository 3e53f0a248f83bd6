"""Scratch space of one run on this host; what killed runs left there is removed by the next."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from batch.execution.holder import Holder

_PREFIX = "batch-predict-"
_OWNER = "owner.json"


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for decompressed copies; removed when the run ends, however it ends, or by the next run on this host."""
    _sweep(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        with open(os.path.join(folder, _OWNER), "w", encoding="utf-8") as file:
            json.dump(Holder.myself().as_dict(), file)
        yield folder


def _sweep(place: str) -> None:
    """Remove the folders of runs that are certainly dead; a folder that does not say whose it is stays."""
    with suppress(OSError):
        for name in os.listdir(place):
            folder = os.path.join(place, name)
            if name.startswith(_PREFIX) and _is_orphan(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(folder: str) -> bool:
    try:
        with open(os.path.join(folder, _OWNER), encoding="utf-8") as file:
            return Holder.of(json.load(file)).is_dead()
    except (OSError, ValueError, KeyError, TypeError):
        return False
