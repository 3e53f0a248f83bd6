"""The Prometheus text format, version 0.0.4: families of gauges written as bytes, and single values read back.

The rules are those of https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one name. Every number here can go down as well as up, so they are gauges."""

    name: str
    help: str
    samples: tuple[tuple[Labels, float], ...]


def family(name: str, help_text: str, value: float | None) -> Family:
    """A family of one series; of none where the value is not known."""
    return Family(name, help_text, () if value is None else (({}, value),))


def render(families: Iterable[Family], common: Labels) -> bytes:
    """All families that have series, in order, each series once, with the `common` labels in front; ends with a line feed."""
    lines: list[str] = []
    for one in families:
        series: dict[str, str] = {}
        for labels, value in one.samples:
            series.setdefault(_labelled({**common, **labels}), _number(value))
        if series:
            lines += [f"# HELP {one.name} {_escaped(one.help)}", f"# TYPE {one.name} gauge"]
            lines += [f"{one.name}{labels} {value}" for labels, value in series.items()]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def read_value(body: bytes, name: str, common: Labels) -> float | None:
    """The value of the series with these labels and no others, as `render` writes it; None where there is none, or no number."""
    series = re.escape(name + _labelled(common))
    found = re.search(rf"^{series} (\S+)$", body.decode("utf-8", "replace"), re.MULTILINE)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def _labelled(labels: Labels) -> str:
    """An empty label is no label: Prometheus takes them for the same series."""
    told = [f'{name}="{_escaped(value, quote=True)}"' for name, value in labels.items() if value]
    return "{" + ",".join(told) + "}" if told else ""


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    """Whole numbers without a fraction, others with all their digits."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
