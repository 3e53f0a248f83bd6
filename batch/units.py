"""Quantities as people write them in a job file: ``"5GiB"`` is bytes, ``"90s"`` is seconds."""

from __future__ import annotations

import re

_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(value: object) -> int:
    """``"32MiB"``, ``"500 kB"`` or a whole number of bytes; ValueError otherwise."""
    return round(_parse(value, _BYTES, 'a size such as "32MiB" or a whole number of bytes'))


def parse_seconds(value: object) -> float:
    """``"90s"``, ``"2h"`` or a number of seconds; ValueError otherwise."""
    return _parse(value, _SECONDS, 'a duration such as "30s", "5m" or "2h"')


def _parse(value: object, units: dict[str, float] | dict[str, int], wanted: str) -> float:
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    if isinstance(value, bool) or match is None or match[2].lower() not in units:
        raise ValueError(f"must be {wanted}, not {value!r}")
    return float(match[1].replace("_", "")) * units[match[2].lower()]


def format_bytes(size_bytes: float) -> str:
    """Three significant digits in binary units: ``1536`` -> ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.3g} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1024
    return f"{size_bytes:.3g} TiB"
