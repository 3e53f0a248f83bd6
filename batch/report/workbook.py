"""The report as an XLSX workbook: numbers as numbers, native charts, and no cell of it is ever a formula or a link.

Names come from outside, and a spreadsheet runs what looks like a formula: xlsxwriter is told to write every text as text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batch.errors import ExtraMissing
from batch.report import words, workbook_charts
from batch.report.workbook_charts import CHARTED_GROUPS, MUTED
from batch.units import format_bytes

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.worksheet import Worksheet

_FONT = "Calibri"


def render(numbers: dict[str, Any]) -> bytes:
    """The file's bytes, the same for the same numbers. Raises `ExtraMissing` without xlsxwriter."""
    try:
        import xlsxwriter
    except ImportError:
        raise ExtraMissing(
            "the workbook needs xlsxwriter, which is not installed", hint="pip install 'batch-predict[report]'"
        ) from None
    from datetime import datetime

    body = io.BytesIO()
    options = {
        "in_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "default_format_properties": {"font_name": _FONT, "font_size": 11},
    }
    with xlsxwriter.Workbook(body, options) as book:
        made_at = datetime.fromisoformat(numbers["made_at"]).replace(tzinfo=None)
        book.set_properties({"title": words.title(numbers), "created": made_at, "comments": "Made by batch-predict"})
        sheets = _Sheets(book, numbers)
        for fill in (sheets.summary, sheets.groups, sheets.history, sheets.drift, sheets.about):
            fill()
    return body.getvalue()


class _Sheets:
    """The five sheets of one workbook."""

    def __init__(self, book: Workbook, numbers: dict[str, Any]) -> None:
        self.book, self.numbers = book, numbers
        self.kind = numbers["measure"]["kind"]
        # All at once: the charts of the first sheet are over cells of later ones.
        self.sheets = {name: book.add_worksheet(name) for name in ("Summary", "Groups", "History", "Drift", "About")}
        value = "#,##0.####" if self.kind == "mean" else "0.0%"
        change = "+#,##0.####;-#,##0.####;0" if self.kind == "mean" else "+0.0%;-0.0%;0.0%"
        styles: dict[str, dict[str, Any]] = {
            "text": {"align": "left", "indent": 1},
            "word": {"align": "right"},
            "wrap": {"text_wrap": True},
            "title": {"bold": True, "font_size": 16},
            "lead": {"text_wrap": True, "font_size": 12},
            "head": {"bold": True, "text_wrap": True, "bottom": 1, "font_color": MUTED},
            "head_right": {"bold": True, "text_wrap": True, "bottom": 1, "font_color": MUTED, "align": "right"},
            "label": {"font_color": MUTED},
            "count": {"num_format": "#,##0"},
            "value": {"num_format": value},
            "change": {"num_format": change},
            "share": {"num_format": "0.0%"},
            "number": {"num_format": "0.000"},
            "warn": {"bold": True, "font_color": "#7D4A00"},
            "alert": {"bold": True, "font_color": "#A1261D"},
            "note": {"font_color": MUTED},
        }
        self.formats = {name: book.add_format({"valign": "top", **style}) for name, style in styles.items()}

    def sheet(self, name: str, widths: Sequence[int]) -> Worksheet:
        """A sheet of its own, still empty, that prints on the width of one page."""
        sheet = self.sheets[name]
        sheet.hide_gridlines(2)
        sheet.set_paper(9)  # A4
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        for column, width in enumerate(widths):
            sheet.set_column(column, column, width)
        return sheet

    def put(self, sheet: Worksheet, row: int, cells: Sequence[tuple[Any, str]], column: int = 0) -> None:
        """Write (value, format name) side by side; None leaves the cell empty."""
        for offset, (value, form) in enumerate(cells):
            at = (row, column + offset)
            if value is None:
                sheet.write_blank(*at, None, self.formats[form])
            elif isinstance(value, str):
                sheet.write_string(*at, value[:32_000], self.formats[form])  # a cell holds 32,767 characters
            else:
                sheet.write_number(*at, value, self.formats[form])

    def head(self, sheet: Worksheet, titles: Sequence[str], texts: Sequence[str] = ()) -> None:
        """The first row, which stays when the sheet is scrolled and repeats on every printed page.

        `texts`: the titles of columns that hold text; the first one always does.
        """
        forms = ["head" if number == 0 or title in texts else "head_right" for number, title in enumerate(titles)]
        self.put(sheet, 0, list(zip(titles, forms, strict=True)))
        sheet.set_row(0, 32)
        sheet.freeze_panes(1, 1)
        sheet.repeat_rows(0)

    def summary(self) -> None:
        """What the page says above its tables, and two charts."""
        numbers, row = self.numbers, self.numbers["overall"]
        sheet = self.sheet("Summary", (30, 16, 16, 16, 60))
        sheet.fit_to_pages(1, 1)
        self.put(sheet, 0, [(words.title(numbers), "title")])
        sheet.set_row(0, 28)
        sheet.merge_range(1, 0, 1, 4, "", self.formats["lead"])
        self.put(sheet, 1, [(numbers["headline"] + ".", "lead")])
        sheet.set_row(1, 34)
        sheet.merge_range(2, 0, 2, 4, "", self.formats["wrap"])
        self.put(sheet, 2, [(numbers["lede"], "wrap")])
        sheet.set_row(2, 34)
        name, interval = words.measure_name(numbers["measure"]), row["interval"] or [None, None]
        change = row["change_interval"] or [None, None]
        heads = [("", "head"), *((title, "head_right") for title in ("Value", "95 % from", "95 % to")), ("", "head")]
        self.put(sheet, 4, heads)
        self.put(sheet, 5, [(name, "label"), *((one, "value") for one in (row["value"], *interval))])
        before = f"Change on {words.before(numbers['unit'])}"
        changed = [*((one, "change") for one in (row["change"], *change)), (row["verdict"], "text")]
        self.put(sheet, 6, [(before, "label"), *changed])
        rows = numbers["rows"]
        for line, key in enumerate(("read", "predicted", "rejected")):
            self.put(sheet, 7 + line, [(f"Rows {key}", "label"), (rows[key], "count")])
        self.put(sheet, 10, [("Drift", "label"), (numbers["drift"]["state"], "word")])
        line = self._cautions(sheet, self._evaluation(sheet, 11) + 1) + 2
        self._charts(sheet, line, name)

    def _charts(self, sheet: Worksheet, line: int, name: str) -> None:
        """The groups and the line over time, side by side."""
        if not self.numbers["groups"]:
            sheet.insert_chart(
                line, 0, workbook_charts.line(self.book, self.numbers, 820), {"description": f"Line chart: {name}"}
            )
            return
        bars = {"description": f"Bar chart: {name} by {self.numbers['group_by']}"}
        sheet.insert_chart(line, 0, workbook_charts.bars(self.book, self.numbers, self._reach_column()), bars)
        alt: dict[str, Any] = {"description": f"Line chart: {name} over time", "x_offset": 60}
        sheet.insert_chart(line, 3, workbook_charts.line(self.book, self.numbers, 470), alt)

    def _evaluation(self, sheet: Worksheet, line: int) -> int:
        found = self.numbers["evaluation"]
        if found and found["calibration"] and found["calibration"]["observed"] is not None:
            when = words.period_words(self.numbers, found)
            for label, key in (("Predicted, rows with labels", "predicted"), ("Happened", "observed")):
                self.put(sheet, line, [(f"{label} ({when})", "label"), (found["calibration"][key], "value")])
                line += 1
        return line

    def _cautions(self, sheet: Worksheet, line: int) -> int:
        self.put(sheet, line, [("Why to be careful", "head"), *([("", "head")] * 4)])
        for one in self.numbers["cautions"]:
            line += 1
            word = {"alert": "Alert", "warn": "Caution", "note": "Note"}[one["level"]]
            sheet.merge_range(line, 1, line, 4, "", self.formats["wrap"])
            self.put(sheet, line, [(word, one["level"]), (one["text"], "wrap")])
            sheet.set_row(line, 15 * (1 + len(one["text"]) // 120))
        return line

    def groups(self) -> None:
        """A line for each group."""
        numbers, rows = self.numbers, self.numbers["groups"]
        names, happened = self._class_names(), self._happened()
        name = words.measure_name(numbers["measure"])
        titles = [numbers["group_by"] or "group", "Rows", name, "95 % from", "95 % to", "Rows before", "Before"]
        titles += ["Change", "Change 95 % from", "Change 95 % to", "Verdict", *(f"Predicted {one}" for one in names)]
        titles += ["Happened", "Rows with labels"] if happened else []
        sheet = self.sheet("Groups", (28, 10, 14, 10, 10, 10, 10, 10, 11, 11, 20, *([12] * (len(titles) - 11))))
        self.head(sheet, titles, ("Verdict",))
        for line, row in enumerate(rows, 1):
            interval, change = row["interval"] or [None, None], row["change_interval"] or [None, None]
            cells = [(words.group(row["group"], numbers["group_by"]), "text"), (row["rows"], "count")]
            cells += [(one, "value") for one in (row["value"], *interval)]
            cells += [(row["previous_rows"], "count"), (row["previous_value"], "value")]
            cells += [(one, "change") for one in (row["change"], *change)]
            cells += [(row["verdict"], "text"), *((row["labels"].get(one, 0), "count") for one in names)]
            seen = happened.get(row["group"], {})
            cells += [(seen.get("observed"), "value"), (seen.get("rows"), "count")] if happened else []
            self.put(sheet, line, cells)
        if rows:
            sheet.autofilter(0, 0, len(rows), len(titles) - 1)
        self._reach(sheet)

    def _reach_column(self) -> int:
        """The first one behind the table of groups."""
        return 11 + len(self._class_names()) + (2 if self._happened() else 0)

    def _happened(self) -> dict[str | None, dict[str, Any]]:
        """What labels of this very period say, by group."""
        found = self.numbers["evaluation"]
        return {one["group"]: one for one in found["groups"]} if found and found["is_this_period"] else {}

    def _reach(self, sheet: Worksheet) -> None:
        """How far the intervals reach below and above their values, hidden behind the table: the chart's whiskers need cells."""
        column = self._reach_column()
        self.put(sheet, 0, [("95 % below", "head_right"), ("95 % above", "head_right")], column)
        for line, row in enumerate(self.numbers["groups"], 1):
            if row["interval"] and row["value"] is not None:
                low, high = row["interval"]
                self.put(sheet, line, [(row["value"] - low, "value"), (high - row["value"], "value")], column)
        sheet.set_column(column, column + 1, None, None, {"hidden": True})

    def _class_names(self) -> list[str]:
        return list(self.numbers["overall"]["labels"])[:20] if self.kind == "classes" else []

    def history(self) -> None:
        """A line for each period, a column for each of the largest groups, and the line over time."""
        numbers, past = self.numbers, self.numbers["history"]
        name, groups = words.measure_name(numbers["measure"]), numbers["groups"][:CHARTED_GROUPS]
        titles = [numbers["unit"].capitalize() or "Run", "Rows", name, "95 % from", "95 % to", "Model", "Run"]
        named = [words.group(row["group"], numbers["group_by"]) for row in groups]
        sheet = self.sheet("History", (16, 10, 12, 10, 10, 18, 20, *([14] * len(named))))
        self.head(sheet, [*titles, *named], ("Model", "Run"))
        for line, one in enumerate(past, 1):
            interval = one["interval"] or [None, None]
            cells = [(one["name"], "text"), (one["rows"], "count")]
            cells += [(value, "value") for value in (one["value"], *interval)]
            cells += [(one["model"] or "", "text"), (one["run_id"] or "no completed run", "text")]
            cells += [(row["history"][line - 1], "value") for row in groups]
            self.put(sheet, line, cells)
        alt = {"description": f"Line chart: {name} over time"}
        sheet.insert_chart(len(past) + 2, 0, workbook_charts.line(self.book, numbers, 820), alt)

    def drift(self) -> None:
        """Every comparison that the run made."""
        drift = self.numbers["drift"]
        sheet = self.sheet("Drift", (26, 12, 14, 18, 10, 10, 10, 10, 10, 12, 12))
        titles = ("Column", "Role", "Variant", "Against", "PSI", "Warn at", "Alert at", "State", "Nulls")
        self.head(sheet, (*titles, "Nulls then", "Unseen", "Outside range"), (*titles[1:4], "State"))
        if not drift["columns"]:
            self.put(sheet, 1, [(drift.get("reason") or "nothing was compared", "note")])
        for line, one in enumerate(drift["columns"], 1):
            cells: list[tuple[Any, str]] = [(one["column"], "text"), (one["role"], "text")]
            cells += [(one.get("variant") or "", "text"), (one["against"], "text")]
            cells += [(one[key], "number") for key in ("psi", "limit_warn", "limit_alert")]
            cells += [(one["state"], one["state"] if one["state"] in self.formats else "text")]
            cells += [(one.get(key), "share") for key in ("nulls", "reference_nulls", "unseen", "outside")]
            self.put(sheet, line, cells)

    def about(self) -> None:
        """Where the numbers come from."""
        numbers, run = self.numbers, self.numbers["run"]
        sheet = self.sheet("About", (22, 90, 14))
        rows: list[tuple[str, Any, Any]] = [
            ("Job", numbers["job"], None),
            ("Period", words.dates(numbers), None),
            ("Run", run["run_id"], None),
            ("State", run["state"].replace("_", " "), None),
            ("Asked for by", run["trigger"], None),
            ("Scored", words.moment(run["finished_at"]), None),
            ("Report made", words.moment(numbers["made_at"]), None),
            ("batch-predict", run["version"] or "", None),
        ]
        rows += [("Model", f"{words.model(one)} ({one['variant']}, {one['mode']}), given as {one['uri_given']}", one["rows"]) for one in numbers["models"]]  # fmt: skip
        rows += [("Input", f"{one['uri']} ({format_bytes(one['size_bytes'])})", one["rows"]) for one in numbers["inputs"][:100]]  # fmt: skip
        rows += [("Predictions", one["uri"], one["rows"]) for one in numbers["outputs"][:100]]
        rows += [("Rejects", one["uri"], one["rows"]) for one in numbers["rejects"][:100] if one["rows"]]
        self.head(sheet, ("", "", "Rows"))
        for line, (label, text, count) in enumerate(rows, 1):
            self.put(sheet, line, [(label, "label"), (text, "wrap"), (count, "count")])
