"""Bad CSV, and CSV that only looks bad."""

from __future__ import annotations

from collections.abc import Callable

from tests.bad_inputs.case import Case, Reject, accepted, refused, rejected

HEADER = "customer_id,age,spend,product"
GOOD = ("00123,30,0.5,basic", "00124,41,-1.25,plus", "00125,52,2,pro")
IDS = ["00123", "00124", "00125"]


def text(*lines: str, header: str = HEADER, end: str = "\n") -> Callable[[], bytes]:
    """A file of these lines behind a header."""
    return lambda: "".join(line + end for line in (header, *lines)).encode()


def raw(*pieces: bytes) -> Callable[[], bytes]:
    """A file of these bytes behind a header."""
    return lambda: HEADER.encode() + b"\n" + b"".join(pieces)


def between(line: str) -> Callable[[], bytes]:
    """One line between three good ones: it is record 2 of 4."""
    return text(GOOD[0], line, *GOOD[1:])


def field(**values: str) -> Callable[[], bytes]:
    """The same with a line in which these cells differ from a good one."""
    cells = {"customer_id": "7", "age": "30", "spend": "0.5", "product": "basic"} | values
    return between(",".join(cells.values()))


def one(row: int, name: str, what: str, body: Callable[[], bytes], code: str, column: str, says: str) -> Case:
    """Record 2 of 4 is rejected."""
    return rejected(row, name, what, body, Reject(2, code, column, says), predicted=3)


def declared(row: int, name: str, what: str, cells: tuple[str, str, str], *faults: Reject, **settings: str) -> Case:
    """For the model that declares what its columns may hold; `cells` are age, product and seen of record 2 of 3."""
    age, product, seen = cells
    body = text(
        "1,30,0.5,basic,2026-01-01",
        f"2,{age},0.5,{product},{seen}",
        "3,41,2,pro,2024-02-29 23:59:59",
        header="customer_id,age,spend,product,seen",
    )
    more = {"model": "declared", "settings": settings}
    if faults:
        return rejected(row, name, what, body, *faults, predicted=2, **more)
    return accepted(row, name, what, body, 3, **more)


def mixed_ends() -> bytes:
    return (HEADER + "\r\n" + GOOD[0] + "\n" + GOOD[1] + "\r" + GOOD[2]).encode()


def wide() -> bytes:
    """A header of 200,000 columns."""
    return ",".join(f"c{number}" for number in range(200_000)).encode() + b"\n1\n"


def late_change() -> bytes:
    """1,000 good rows, then one with a word for a number."""
    lines = [f"{number},30,0.5,basic" for number in range(1000)]
    return text(*lines, "1000,thirty,0.5,basic", *GOOD)()


CELLS = ["=1+1", "+1", "-1", "@SUM(A1)", "\ta", "\rb"]
FORMULAS = [f'"{cell}",30,0.5,basic' for cell in CELLS]
STRAY = "holds a quote inside an unquoted field, or text behind a closing quote"

FILES = (
    refused(1, "csv-empty", "0 bytes", lambda: b"", "input_empty", "in.csv is empty (0 bytes)", hint="allow_empty"),
    accepted(
        1, "csv-empty-allowed", "0 bytes, `allow_empty = true`", lambda: b"", 0, settings={"input__allow_empty": True}
    ),
    refused(1, "csv-blank", "nothing but blank lines", lambda: b"\n\r\n\n", "input_empty", "4 bytes are blank lines"),
    accepted(2, "csv-header-only", "header only", text(), 0),
    accepted(2, "csv-header-only-unended", "header only, no newline at the end", HEADER.encode, 0),
    accepted(
        2, "csv-header-blank-lines", "header only, behind and before blank lines", lambda: b"\n\n" + text("", "")(), 0
    ),
    accepted(3, "csv-no-final-newline", "no newline at the end", lambda: text(*GOOD)().rstrip(), 3),
    accepted(4, "csv-crlf", "CRLF line ends", text(*GOOD, end="\r\n"), 3, cells={"customer_id": IDS}),
    accepted(4, "csv-cr", "CR line ends", text(*GOOD, end="\r"), 3, cells={"customer_id": IDS}),
    accepted(4, "csv-mixed-ends", "mixed line ends", mixed_ends, 3, cells={"customer_id": IDS}),
    accepted(
        4,
        "csv-line-separator",
        "U+2028, U+0085, form feed inside a field",
        text("a\u2028b,30,0.5,basic", "c\u0085d,30,0.5,basic", "e\x0cf\x1cg,30,0.5,basic"),
        3,
        cells={"customer_id": ["a\u2028b", "c\u0085d", "e\x0cf\x1cg"]},
    ),
    accepted(
        5,
        "csv-bom",
        "byte order mark in front",
        lambda: b"\xef\xbb\xbf" + text(*GOOD)(),
        3,
        cells={"customer_id": IDS},
    ),
    accepted(
        5,
        "csv-bom-quoted",
        "byte order mark in front of a quoted name",
        lambda: b"\xef\xbb\xbf" + text(*GOOD, header='"customer_id",age,spend,product')(),
        3,
        cells={"customer_id": IDS},
    ),
    refused(
        6,
        "csv-utf-16",
        "UTF-16",
        lambda: text(*GOOD)().decode().encode("utf-16"),
        "input_format",
        "is UTF-16 text",
        hint="iconv -f UTF-16 -t UTF-8",
    ),
    refused(
        6,
        "csv-utf-16-no-bom",
        "UTF-16 without a byte order mark",
        lambda: text(*GOOD)().decode().encode("utf-16-le"),
        "input_format",
        "is UTF-16 text",
    ),
    refused(
        6, "csv-utf-32", "UTF-32", lambda: text(*GOOD)().decode().encode("utf-32"), "input_format", "is UTF-32 text"
    ),
    refused(
        7,
        "csv-latin-1",
        "Latin-1 in a record",
        raw(GOOD[0].encode(), b"\n7,30,0.5,caf\xe9\n"),
        "input_format",
        "in.csv is not UTF-8: byte 0xe9 at offset 61",
        hint="iconv",
    ),
    refused(
        7,
        "csv-latin-1-header",
        "Latin-1 in the header",
        lambda: b"\xe9,age\n1,2\n",
        "input_format",
        "byte 0xe9 at offset 0",
    ),
    one(8, "csv-nul", "NUL byte in a field", field(product="ba\0sic"), "parse", "", "holds a NUL byte"),
    one(
        9,
        "csv-short-row",
        "record with a field too few",
        between("7,30,0.5"),
        "columns",
        "",
        "has 3 fields, but the file has 4",
    ),
    one(
        10,
        "csv-long-row",
        "record with a field too many",
        between("7,30,0.5,basic,"),
        "columns",
        "",
        "has 5 fields, but the file has 4",
    ),
    refused(
        11,
        "csv-unclosed-quote",
        "quote that is never closed",
        between('7,30,0.5,"basic'),
        "input_format",
        "ends inside quotes: the quote at byte 58 is never closed",
    ),
    refused(
        11,
        "csv-unclosed-quote-header",
        "the same in the header",
        text(*GOOD, header='customer_id,"age,spend,product'),
        "input_format",
        "the quote at byte 12 is never closed",
    ),
    accepted(
        12,
        "csv-quoted-newline",
        "line ends inside quotes",
        between('"a\nb\r\nc",30,0.5,basic'),
        4,
        cells={"customer_id": ["00123", "a\nb\r\nc", "00124", "00125"]},
    ),
    one(13, "csv-quote-inside", "quote in the middle of a field", field(product='ba"sic'), "parse", "", STRAY),
    one(13, "csv-quote-then-text", "text behind a closing quote", field(product='"ba"sic'), "parse", "", STRAY),
    refused(
        14,
        "csv-repeated-name",
        "the same name twice in the header",
        text(*GOOD, header="customer_id,age,age,product"),
        "input_format",
        "the header of in.csv holds 'age' 2 times",
    ),
    refused(
        15,
        "csv-name-blank",
        "a name with a blank in front",
        text(*GOOD, header="customer_id, age,spend,product"),
        "schema_mismatch",
        "has no column 'age'",
        hint="' age' looks like 'age'",
    ),
    refused(
        15,
        "csv-name-case",
        "a name in capitals",
        text(*GOOD, header="customer_id,AGE,spend,product"),
        "schema_mismatch",
        "has no column 'age'",
        hint="'AGE' looks like 'age'",
    ),
    refused(
        15,
        "csv-name-empty",
        "a name left empty",
        text(*GOOD, header="customer_id,,spend,product"),
        "schema_mismatch",
        "has no column 'age'",
        hint="its columns are",
    ),
    refused(
        16,
        "csv-missing-column",
        "a feature is missing",
        text("1,30,0.5", header="customer_id,age,spend"),
        "schema_mismatch",
        "in.csv has no column 'product'; the model and the job need 3 and 2 columns, 3 are there",
    ),
    accepted(16, "csv-extra-column", "a column nobody asked for", text("1,30,0.5,basic,x", header=HEADER + ",more"), 1),
    refused(
        17,
        "csv-semicolon",
        "semicolons",
        lambda: text(*GOOD)().replace(b",", b";"),
        "input_format",
        "1 column found in in.csv, 3 expected; looks like ';'",
        hint='set input.delimiter = ";"',
    ),
    refused(17, "csv-tabs", "tabs", lambda: text(*GOOD)().replace(b",", b"\t"), "input_format", r"looks like '\t'"),
    refused(
        17,
        "csv-comma",
        'commas, `delimiter = ";"`',
        text(*GOOD),
        "input_format",
        "looks like ','",
        settings={"input__delimiter": ";"},
    ),
    accepted(
        18,
        "csv-blank-lines",
        "blank lines between records",
        text("", GOOD[0], "", "", *GOOD[1:], ""),
        3,
        cells={"customer_id": IDS},
    ),
)

VALUES = (
    accepted(19, "csv-field-200k", "a field of 200,000 bytes", field(customer_id="x" * 200_000), 4),
    one(
        19,
        "csv-field-2m",
        "a field of 2 MB",
        field(customer_id="x" * 2_000_000),
        "too_long",
        "",
        "has 2000013 bytes, more than input.max_record_bytes = 1048576",
    ),
    one(
        19,
        "csv-field-11m",
        "a field of 11 MB",
        field(customer_id="x" * 11_000_000),
        "too_long",
        "",
        "has 11000013 bytes",
    ),
    refused(
        20,
        "csv-wide",
        "200,000 columns",
        wide,
        "input_format",
        "of in.csv has 200000 fields, more than the 100000 columns",
    ),
    accepted(21, "csv-leading-zeros", "ids with leading zeros", text(*GOOD), 3, cells={"customer_id": IDS}),
    one(
        22,
        "csv-huge-integer",
        "20 digits for an integer",
        field(age="9" * 20),
        "type",
        "age",
        "age is '99999999999999999999', which is not of type long",
    ),
    one(22, "csv-huge-float", "1e400", field(spend="1e400"), "range", "spend", "spend is inf, but only finite numbers"),
    one(23, "csv-nan", "NaN in a required column", field(spend="NaN"), "null", "spend", "spend is null"),
    one(23, "csv-inf", "inf", field(spend="-inf"), "range", "spend", "spend is -inf, but only finite"),
    one(
        23,
        "csv-na",
        "NA for a number",
        field(spend="NA"),
        "type",
        "spend",
        "spend is 'NA', which is not of type double",
    ),
    rejected(
        23,
        "csv-na-null",
        'NA for a number, `null_values = ["NA"]`',
        field(spend="NA"),
        Reject(2, "null", "spend", "requires a value"),
        predicted=3,
        settings={"input__null_values": ["NA"]},
    ),
    one(
        23,
        "csv-no-value",
        "nothing in a required column",
        field(spend=""),
        "null",
        "spend",
        "spend is null, but the model requires a value",
    ),
    rejected(
        24,
        "csv-late-change",
        "a word for a number in record 1,001",
        late_change,
        Reject(1001, "type", "age", "age is 'thirty'"),
        predicted=1003,
    ),
    declared(
        25,
        "csv-no-such-day",
        "30 February",
        ("30", "basic", "2024-02-30"),
        Reject(2, "type", "seen", "seen is '2024-02-30', which is not of type datetime"),
    ),
    declared(
        25, "csv-zones", "a time with an offset among times without", ("30", "basic", "2026-03-29T02:30:00+02:00")
    ),
    accepted(
        26,
        "csv-formula",
        "cells that a spreadsheet takes for formulas",
        text(*FORMULAS),
        6,
        cells={"customer_id": CELLS},
    ),
    accepted(
        26,
        "csv-formula-safe",
        "the same, `excel_safe = true`",
        text(*FORMULAS),
        6,
        settings={"output__excel_safe": True},
        cells={"customer_id": [f"'{cell}" for cell in CELLS]},
    ),
    accepted(27, "csv-new-category", "a text the model has not seen, no categories declared", field(product="gold"), 4),
    declared(
        27,
        "csv-category",
        "a text that is not among the declared categories",
        ("30", "gold", "2026-01-01"),
        Reject(2, "category", "product", "product is 'gold', which is none of its 3 categories"),
    ),
    declared(
        27,
        "csv-range",
        "a number outside the declared range",
        ("7", "basic", "2026-01-01"),
        Reject(2, "range", "age", "age is 7, below its minimum of 18"),
    ),
    declared(
        27,
        "csv-range-allowed",
        'the same, `on_range = "allow"`',
        ("7", "basic", "2026-01-01"),
        checks__on_range="allow",
    ),
)

CASES = FILES + VALUES
