"""The MLmodel file of a model that somebody logged to MLflow: its scikit-learn flavour and its signature.

MLmodel is YAML as PyYAML's `safe_dump` writes it. Only that form is read, and of it only the sections ``flavors`` and
``signature``: a YAML library is no dependency of ours, and what else stands in the file is nobody's business here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from batch.errors import ModelRefused
from batch.models.signature import TYPES, SignatureColumn

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
"""Of nested mappings; MLflow writes four."""

DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
    "binary": "object",
    "datetime": "datetime64[ns]",
}
"""MLflow type -> dtype of the column the estimator is given: the one that MLflow would infer the type from."""

LOG_SIGNATURE = (
    "log it again with signature=infer_signature(X, model.predict(X)), X being the DataFrame it was fitted on"
)

FOLDED_LINES = re.compile(r"[ \t]*\n[ \t]*")
OTHER_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")
PLAIN_KEY = re.compile(r"([A-Za-z0-9_.-]+):(?: +(.*))?")
ESCAPES = dict(zip('0abtnvfre"\\/ N_LP', '\0\a\b\t\n\v\f\r\x1b"\\/ \x85\xa0\u2028\u2029', strict=True))
WORDS: dict[str, Any] = {"null": None, "~": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Flavour:
    """What is in a logged scikit-learn model, and what it is to be given."""

    file: str
    """Name of the model file beside MLmodel."""
    is_skops: bool
    """False: a pickle, by whatever library."""
    signature: tuple[SignatureColumn, ...]
    output_type: str
    """``float`` where the signature says that the model predicts 32-bit numbers, else ``double``; only regressors ask."""
    libraries: dict[str, str]
    """Versions it was saved with: python, scikit-learn."""


def read(body: bytes, uri: str) -> Flavour:
    """The flavour in an MLmodel file. Raises `ModelRefused` for what cannot be read or is not a model for this program.

    `uri`: where the file was read, for messages.
    """
    try:
        found = _sections(body.decode("utf-8"), ("flavors", "signature"))
        flavours, signature = found.get("flavors") or {}, found.get("signature")
        if "sklearn" not in flavours:
            raise ModelRefused(
                f"{uri} has no scikit-learn flavour, only {', '.join(sorted(flavours)) or 'nothing'}",
                hint="log the fitted estimator with mlflow.sklearn.log_model",
            )
        return _flavour(flavours["sklearn"], flavours.get("python_function") or {}, signature, uri)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelRefused(
            f"{uri} cannot be read as an MLmodel file: {error}",
            hint="log the model again with mlflow.sklearn.log_model",
        ) from error


def _flavour(sklearn: dict[str, Any], pyfunc: dict[str, Any], signature: Any, uri: str) -> Flavour:
    if sklearn.get("code"):
        raise ModelRefused(
            f"{uri} brings Python code of its own ({sklearn['code']}), which is not run here",
            hint="log a model that is made of scikit-learn's own estimators, without code_paths",
        )
    file, form = sklearn["pickled_model"], sklearn.get("serialization_format")
    if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file):
        raise ValueError(f"pickled_model is {file!r}")
    if form not in {"skops", "cloudpickle", "pickle"}:
        raise ModelRefused(f"{uri} has the serialization format {form!r}", hint='log it with "skops"')
    versions = {"python": pyfunc.get("python_version"), "scikit-learn": sklearn.get("sklearn_version")}
    return Flavour(
        file=file,
        is_skops=form == "skops",
        signature=_columns(signature, uri),
        output_type=_output_type(signature),
        libraries={name: str(version) for name, version in versions.items() if version},
    )


def _columns(signature: Any, uri: str) -> tuple[SignatureColumn, ...]:
    """The input columns, named and typed."""
    specs = json.loads((signature or {}).get("inputs") or "[]")
    if not specs:
        raise ModelRefused(f"{uri} has no signature, so nothing says which columns the model takes", hint=LOG_SIGNATURE)
    for spec in specs:
        if not spec.get("name"):
            raise ModelRefused(f"{uri} has a signature without column names", hint=LOG_SIGNATURE)
        if spec.get("type") not in TYPES:
            raise ModelRefused(
                f"column {spec['name']!r} in {uri} has the type {spec.get('type')!r}",
                hint=f"types that a file can hold are {', '.join(TYPES)}",
            )
    names = [spec["name"] for spec in specs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two columns of the signature are named {min(twice)!r}")
    return tuple(_column(spec) for spec in specs)


def _column(spec: dict[str, Any]) -> SignatureColumn:
    # Before MLflow 2.6 a column said that it is optional; since then, whether it is required.
    required = spec.get("required", not spec.get("optional", False))
    return SignatureColumn(str(spec["name"]), spec["type"], bool(required), DTYPES[spec["type"]])


def _output_type(signature: dict[str, Any]) -> str:
    specs = json.loads(signature.get("outputs") or "[]")
    first = specs[0] if specs else {}
    return "float" if "float32" in str(first.get("tensor-spec")) or first.get("type") == "float" else "double"


def _sections(text: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The wanted keys of the topmost mapping; what others hold is skipped unread, by its indentation."""
    lines: list[str] = []
    keep = False
    for line in text.rstrip("\n").split("\n"):
        if line[:1] not in {" ", "-", ""}:
            keep = line.partition(":")[0] in wanted
        if keep:
            lines.append(line)
    return Reader(lines).mapping(0) if lines else {}


class Reader:
    """Block mappings and sequences, and scalars that may be folded over several lines. Raises ValueError for all else."""

    def __init__(self, lines: list[str]) -> None:
        # In a folded text these would stand for line ends, which nothing that is wanted here has.
        if not all(line.strip() and not OTHER_LINE_ENDS.search(line) for line in lines):
            raise ValueError("there is an empty line in it")
        self._lines = lines
        self._at = 0

    def mapping(self, indent: int, depth: int = 1) -> dict[str, Any]:
        """The mapping whose keys begin at column `indent` (0-based), up to the first line further left."""
        found: dict[str, Any] = {}
        while self._indent() == indent:
            line = self._lines[self._at]
            match = PLAIN_KEY.fullmatch(line.strip())
            if match is None or match[1] in found or depth > MAX_DEPTH:
                raise ValueError(f"{line.strip()[:80]!r} is not one more key and its value")
            self._at += 1
            found[match[1]] = self._scalar(match[2], indent) if match[2] else self._block(indent, depth)
        if self._indent() > indent:
            raise ValueError(f"{self._lines[self._at].strip()[:80]!r} is indented too far")
        return found

    def _indent(self) -> int:
        """Of the next line; -1 at the end."""
        if self._at == len(self._lines):
            return -1
        line = self._lines[self._at]
        return len(line) - len(line.lstrip(" "))

    def _block(self, indent: int, depth: int) -> Any:
        """What stands below a key without a value of its own: nothing, a mapping, or a sequence (which need not be indented)."""
        inner = self._indent()
        if inner >= indent and self._lines[self._at][inner:].startswith("- "):
            return self._sequence(inner)
        return self.mapping(inner, depth + 1) if inner > indent else None

    def _sequence(self, indent: int) -> list[Any]:
        found = []
        while self._indent() == indent and self._lines[self._at][indent:].startswith("- "):
            text = self._lines[self._at][indent + 2 :]
            self._at += 1
            found.append(self._scalar(text, indent))
        return found

    def _scalar(self, text: str, indent: int) -> Any:
        """One value that begins with `text` and goes on in the lines that are indented further than its key."""
        while self._indent() > indent:
            text += "\n" + self._lines[self._at]
            self._at += 1
        text = text.strip()
        if text[0] == "'":
            return _single_quoted(text)
        if text[0] == '"':
            return _double_quoted(text)
        if text[0] in "[{":
            return json.loads(text)
        if text[0] in "&*!|>%@`#" or ": " in text or " #" in text:
            raise ValueError(f"{text[:80]!r} is more YAML than MLflow writes")
        return WORDS.get(text, FOLDED_LINES.sub(" ", text))


def _single_quoted(text: str) -> str:
    inner = text[1:-1]
    if len(text) < 2 or text[-1] != "'" or "'" in inner.replace("''", ""):
        raise ValueError(f"{text[:80]!r} is not one quoted text")
    return FOLDED_LINES.sub(" ", inner).replace("''", "'")


def _double_quoted(text: str) -> str:
    if not re.fullmatch(r'"(?:[^"\\]|\\.)*"', text, re.DOTALL):
        raise ValueError(f"{text[:80]!r} is not one quoted text")
    # A line that ends in a backslash is cut there; any other goes on after one blank. Escapes are read in the same pass, so that
    # a backslash that is itself escaped begins nothing.
    return re.sub(r"\\(\n[ \t]*|x..|u.{4}|U.{8}|.)|([ \t]*\n[ \t]*)", _unescaped, text[1:-1], flags=re.DOTALL)


def _unescaped(match: re.Match[str]) -> str:
    escape = match[1]
    if escape is None:
        return " "
    if escape[0] in "xuU":
        return chr(int(escape[1:], 16))
    return "" if escape[0] == "\n" else ESCAPES[escape]
