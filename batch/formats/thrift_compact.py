"""Thrift's compact protocol as plain trees: what a Parquet footer is written in, without knowing what its fields mean.

A tree keeps every field, also those that nobody here has heard of, so that what is read can be written again. The specification is
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)
"""How the wire names the types. A boolean field has no bytes of its own: its type is its value."""

DEPTH = 32
"""Values nested deeper are no Parquet footer, and would end in the recursion limit."""
_BITS = {I16: 16, I32: 32, I64: 64}
_RAW = {BYTE: 1, TRUE: 1, FALSE: 1, DOUBLE: 8, UUID: 16}
"""Types that are kept as their bytes: nobody asks for such a value, and a NaN must stay the same NaN. Booleans: in lists."""
_LONGEST = 10
"""Bytes of a variable-length integer of 64 bits."""


class Malformed(ValueError):
    """The bytes, or the tree, are not of the protocol; the message says where or which."""


@dataclass(slots=True)
class Items:
    """A list or a set: all values are of one type."""

    kind: int
    values: list[Any]


@dataclass(slots=True)
class Pairs:
    """A map, as pairs in the order of the wire; both types are 0 where it is empty."""

    kinds: tuple[int, int]
    pairs: list[tuple[Any, Any]]


@dataclass(slots=True)
class Struct:
    """Fields by number, in the order of the wire: (type, value).

    Values: int for `I16`, `I32` and `I64`; bytes for `BINARY` and what is kept raw; `Items`, `Pairs` and `Struct`; True for `TRUE` and
    False for `FALSE`. A struct in `Items` that is only to be written may stand there encoded.
    """

    fields: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def get(self, number: int, kind: int) -> Any:
        """A field's value, None where it is absent. Raises `Malformed` where it is of another type."""
        found = self.fields.get(number)
        if found is None:
            return None
        if found[0] != kind:
            raise Malformed(f"field {number} is of type {found[0]}, not {kind}")
        return found[1]

    def need(self, number: int, kind: int) -> Any:
        """A field's value. Raises `Malformed` where it is absent or of another type."""
        found = self.get(number, kind)
        if found is None:
            raise Malformed(f"field {number} is missing")
        return found

    def structs(self, number: int) -> list[Struct]:
        """The elements of a list of structs. Raises `Malformed` where it is absent or something else."""
        found = self.need(number, LIST)
        if found.kind != STRUCT and found.values:
            raise Malformed(f"field {number} is a list of type {found.kind}, not {STRUCT}")
        values: list[Struct] = found.values
        return values

    def put(self, number: int, value: Any) -> None:
        """Another value for a field that is there; its type stays."""
        self.fields[number] = self.fields[number][0], value


def decode(body: bytes) -> Struct:
    """The one struct that all of `body` is. Raises `Malformed` for anything else, whatever the bytes."""
    reader = _Reader(body)
    found = reader.struct(DEPTH)
    if reader.at != len(body):
        raise Malformed(f"{len(body) - reader.at} bytes follow the struct")
    return found


def encode(struct: Struct) -> bytes:
    """The bytes of a struct, each number and header in its shortest form. Raises `Malformed` for a number too big for its type."""
    return b"".join(_struct(struct))


class _Reader:
    """A position in some bytes; every length is compared with what is left before it is believed."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.at = 0

    def struct(self, depth: int) -> Struct:
        if not depth:
            raise Malformed(f"values are nested deeper than {DEPTH} at byte {self.at}")
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while header := self._byte():
            kind = header & 15
            number = number + (header >> 4) if header >> 4 else self._integer(I16)
            if number in fields or not -0x8000 <= number < 0x8000:
                raise Malformed(f"field {number} is there twice, or its number is impossible, at byte {self.at}")
            fields[number] = (kind, kind == TRUE) if kind in {TRUE, FALSE} else (kind, self._value(kind, depth - 1))
        return Struct(fields)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _BITS:
            return self._integer(kind)
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct(depth)
        if kind in _RAW:
            return self._take(_RAW[kind])
        if not depth:
            raise Malformed(f"values are nested deeper than {DEPTH} at byte {self.at}")
        if kind in {LIST, SET}:
            return self._items(depth - 1)
        if kind == MAP:
            return self._pairs(depth - 1)
        raise Malformed(f"there is no type {kind}, at byte {self.at}")

    def _items(self, depth: int) -> Items:
        header = self._byte()
        kind, count = header & 15, header >> 4
        count = self._count(self._varint() if count == 15 else count)
        return Items(kind, [self._value(kind, depth) for _ in range(count)])

    def _pairs(self, depth: int) -> Pairs:
        count = self._count(self._varint())
        if not count:
            return Pairs((0, 0), [])
        kinds = self._byte()
        key, value = kinds >> 4, kinds & 15
        return Pairs((key, value), [(self._value(key, depth), self._value(value, depth)) for _ in range(count)])

    def _count(self, count: int) -> int:
        """No element is shorter than a byte: so a wrong count cannot ask for more memory than there are bytes."""
        if count > len(self._body) - self.at:
            raise Malformed(
                f"{count} elements are announced at byte {self.at}, {len(self._body) - self.at} bytes follow"
            )
        return count

    def _take(self, size: int) -> bytes:
        if size > len(self._body) - self.at:
            raise Malformed(f"{size} bytes are announced at byte {self.at}, {len(self._body) - self.at} follow")
        start, self.at = self.at, self.at + size
        return self._body[start : self.at]

    def _byte(self) -> int:
        if self.at >= len(self._body):
            raise Malformed(f"the bytes end in the middle of a value, at byte {self.at}")
        self.at += 1
        return self._body[self.at - 1]

    def _varint(self) -> int:
        found = 0
        for place in range(_LONGEST):
            byte = self._byte()
            found |= (byte & 127) << 7 * place
            if byte < 128:
                return found
        raise Malformed(f"a number has no end at byte {self.at}")

    def _integer(self, kind: int) -> int:
        found = self._varint()
        if found >> _BITS[kind]:
            raise Malformed(f"a number has more than {_BITS[kind]} bits at byte {self.at}")
        return found >> 1 ^ -(found & 1)


def _struct(struct: Struct) -> Iterator[bytes]:
    before = 0
    for number, (kind, value) in struct.fields.items():
        if 0 < number - before < 16:
            yield bytes([number - before << 4 | kind])
        else:
            yield bytes([kind]) + _varint(_zigzag(number, I16))
        if kind not in {TRUE, FALSE}:
            yield from _value(kind, value)
        before = number
    yield b"\0"


def _value(kind: int, value: Any) -> Iterator[bytes]:
    if kind in _BITS:
        yield _varint(_zigzag(value, kind))
    elif kind == BINARY:
        yield _varint(len(value))
        yield value
    elif kind == STRUCT:
        yield from (value,) if isinstance(value, bytes) else _struct(value)
    elif kind in _RAW:
        yield value
    elif kind == MAP:
        yield _varint(len(value.pairs))
        if value.pairs:
            yield bytes([value.kinds[0] << 4 | value.kinds[1]])
        for pair in value.pairs:
            for each, one in zip(value.kinds, pair, strict=True):
                yield from _value(each, one)
    else:
        count = len(value.values)
        yield bytes([count << 4 | value.kind]) if count < 15 else bytes([0xF0 | value.kind]) + _varint(count)
        for one in value.values:
            yield from _value(value.kind, one)


def _zigzag(number: int, kind: int) -> int:
    bits = _BITS[kind]
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise Malformed(f"{number} does not fit into {bits} bits")
    return number << 1 if number >= 0 else (-number << 1) - 1


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
