"""The workbook's charts: Excel's own, over cells of its sheets, so that whoever opens it can change and copy them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batch.report import words

if TYPE_CHECKING:
    from xlsxwriter import Workbook

CHARTED_GROUPS = 40
"""Bars that can still be told apart."""
ACCENT, SOFT, MUTED = "#0A6C74", "#B5D9D8", "#59636B"


def bars(book: Workbook, numbers: dict[str, Any], ends_column: int) -> Any:
    """A bar for each of the largest groups; `ends_column`: where the sheet has how far their intervals reach down and up."""
    count = min(len(numbers["groups"]), CHARTED_GROUPS)
    name = words.measure_name(numbers["measure"])
    reach = [_cells("Groups", 1, count, ends_column + side) for side in (0, 1)]
    chart = book.add_chart({"type": "bar"})
    chart.add_series(
        {
            "name": name,
            "categories": ["Groups", 1, 0, count, 0],
            "values": ["Groups", 1, 2, count, 2],
            "fill": {"color": SOFT},
            "gap": 60,
            "y_error_bars": {
                "type": "custom", "minus_values": reach[0], "plus_values": reach[1], "end_style": 0,
                "line": {"color": ACCENT, "width": 1.75},
            },
        }
    )  # fmt: skip
    chart.show_hidden_data()
    _dress(chart, f"{name}, with 95 % interval")
    chart.set_y_axis({"reverse": True, "line": {"color": MUTED}, "major_tick_mark": "none"})
    chart.set_x_axis({**_value_axis(numbers), "label_position": "high"})
    chart.set_size({"width": 500, "height": max(320, 90 + 24 * count)})
    return chart


def line(book: Workbook, numbers: dict[str, Any], width: int) -> Any:
    """The whole over the periods, between the ends of its interval."""
    count, name = len(numbers["history"]), words.measure_name(numbers["measure"])
    dots = {"type": "circle", "size": 6, "fill": {"color": ACCENT}, "border": {"color": ACCENT}}
    chart = book.add_chart({"type": "line"})
    for column, title, color, points in (
        (3, "95 % from", SOFT, 1.0),
        (4, "95 % to", SOFT, 1.0),
        (2, name, ACCENT, 2.25),
    ):
        chart.add_series(
            {
                "name": title,
                "categories": ["History", 1, 0, count, 0],
                "values": ["History", 1, column, count, column],
                "line": {"color": color, "width": points},
                "marker": dots if column == 2 else {"type": "none"},
            }
        )
    chart.show_blanks_as("gap")
    _dress(chart, f"{name} over time, with 95 % interval")
    chart.set_x_axis({"line": {"color": MUTED}, "major_tick_mark": "none"})
    chart.set_y_axis(_value_axis(numbers))
    chart.set_size({"width": width, "height": 320})
    return chart


def _cells(sheet: str, first: int, last: int, column: int) -> str:
    from xlsxwriter.utility import xl_range_abs

    return f"={sheet}!{xl_range_abs(first, column, last, column)}"


def _dress(chart: Any, title: str) -> None:
    chart.set_title({"name": title, "name_font": {"size": 12, "bold": False}})
    chart.set_legend({"none": True})
    chart.set_chartarea({"border": {"none": True}})


def _value_axis(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_format": "#,##0.##" if numbers["measure"]["kind"] == "mean" else "0%",
        "major_gridlines": {"visible": True, "line": {"color": "#E2E5E4"}},
        "line": {"none": True},
    }
