"""docs/bad-inputs.md, made from the cases and from what the program really says to them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bad_inputs import GROUPS
from tests.bad_inputs.case import Benches, Case, Ends

INTRO = """\
# Bad inputs

<!-- Written by `make docs` from the cases in tests/bad_inputs/; changes here are lost. -->

What is wrong with a whole file refuses it (exit 3, nothing is published); a bad record is rejected alone. Rejected rows stand in the
rejects file with their number, column, code and message, and count against the budget, which is no row by default: exit 5, and the
output is not touched. With `[rejects] max_rows` or `max_share` all other rows are predicted. Rows read are always rows predicted plus rows
rejected.

Each line below is a test: the file is made, the real program is run on it, once whole and once cut into twenty chunks, and this
is what it said. "#" numbers the list of bad inputs that the program was built after.
"""
OUTRO = """\
## What no file shows

- **Archived object** (#55): HEAD and LIST do not tell, the first GET does. Exit 3, `input_missing`: "GetObject s3://…: InvalidObjectState
  …: the object is archived"; hint: "Restore it from the archive first." What a delete marker hides is `input_missing`, too.
- **Folder markers** (#54), empty objects whose key ends in `/`, are skipped. A key with `..` in it is a name like any other, but may not
  give an output its place (exit 6).
- **Models** (#57 to #59) are refused with exit 4: a pickle or joblib file whose digest the job does not pin never runs, a foreign type in a
  skops file is named, and a model of another scikit-learn is held to its golden rows (`tests/test_models.py`).
- **ONNX** (#60) is not a format this program reads.
- **Anything else**: `tests/test_fuzz.py` damages valid files of all formats byte by byte and runs the program on them.
"""


def page(benches: Benches) -> str:
    """The whole page. Runs each case, unless it was run before."""
    return INTRO + "".join(_table(heading, cases, benches) for heading, cases in GROUPS.items()) + "\n" + OUTRO


def _table(heading: str, cases: tuple[Case, ...], benches: Benches) -> str:
    head = f"\n## {heading}\n\n| # | input | exit | code | what is said |\n|---|---|---|---|---|\n"
    return head + "".join(_line(case, benches.ends(case.name)) for case in sorted(cases, key=lambda case: case.row))


def _line(case: Case, ends: Ends) -> str:
    codes = dict.fromkeys(str(reject["_code"]) for reject in ends.first.rejects) or [ends.first.code]
    cells = (
        str(case.row), case.what, str(ends.first.exit_code), ", ".join(f"`{code}`" for code in codes if code), "<br>".join(_said(ends))
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _said(ends: Ends) -> Iterator[str]:
    """One line per reject, the last ones summed up; else the refusal, or how many rows were predicted."""
    rejects, counts = ends.first.rejects, ends.allowed.counts or (0, 0, 0)
    for reject in rejects[:3]:
        yield f"row {reject['_row']}: {_plain(str(reject['_message']))}"
    if more := len(rejects) - 3 if len(rejects) > 3 else 0:
        yield f"… and {more} more"
    if not rejects:
        yield _plain(ends.first.message) or f"{counts[1]} row{'s' * (counts[1] != 1)} predicted"
    if ends.first.hint and not rejects:
        yield f"*hint: {_plain(ends.first.hint)}*"


def _plain(text: str) -> str:
    """A message inside a table of Markdown."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")
