"""A strict reader of the Prometheus text format, for the tests of what we write in it."""

from __future__ import annotations

import re

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
_UNESCAPED = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}

Series = tuple[str, frozenset[tuple[str, str]]]


def parse(body: bytes) -> dict[Series, float]:
    """Every series with its value. Raises AssertionError for what Prometheus, or the textfile collector, would refuse."""
    text = body.decode("utf-8")
    assert text.endswith("\n")
    found: dict[Series, float] = {}
    described: list[str] = []
    current, awaits = "", ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            assert current not in described, f"{current} is described twice"
            described.append(current)
            awaits = "TYPE"
        elif line.startswith("# TYPE "):
            assert (awaits, line) == ("TYPE", f"# TYPE {current} gauge"), line
            awaits = "a sample"
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, f"not a sample: {line}"
            assert awaits != "TYPE", line
            assert match[1] == current, f"{match[1]} stands under {current}"
            labels = _labels(match[2] or "")
            assert (current, labels) not in found, f"twice: {line}"
            found[current, labels] = float(match[3])
            awaits = ""
    assert not awaits, f"{current} has no series"
    return found


def _labels(text: str) -> frozenset[tuple[str, str]]:
    pairs = [one.partition("=")[::2] for one in re.findall(_LABEL, text)]
    assert len({name for name, _ in pairs}) == len(pairs), f"a label twice: {text}"
    return frozenset(
        (name, re.sub(r'\\[n"\\]', lambda found: _UNESCAPED[found[0]], value[1:-1])) for name, value in pairs
    )


def values(body: bytes, job: str) -> dict[str, float]:
    """The series of one job without prefix and job: ``rows{kind=read}`` -> value."""
    told = {}
    for (name, labels), value in parse(body).items():
        others = dict(labels)
        assert others.pop("batch_job") == job
        assert name.startswith("batch_predict_")
        inside = ",".join(f"{label}={others[label]}" for label in sorted(others))
        told[name.removeprefix("batch_predict_") + (f"{{{inside}}}" if inside else "")] = value
    return told
