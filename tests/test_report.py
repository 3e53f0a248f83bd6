"""The report: its numbers and how sure they are, the page, the workbook and the text made of them, and how they are delivered."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from datetime import timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from batch.cli import program
from batch.errors import UsageError
from batch.period import parse_period
from batch.report import charts, deliver, figures, numbers, page, past, webhook, words, workbook
from batch.storage import storage_for
from batch.storage.local import LocalStorage
from tests.clocks import FakeClock
from tests.report_cases import Groups, Weeks, quarter, weeks_before
from tests.run_cases import Bench

LAST = "2026-W46"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def weeks(tmp_path: Path) -> Weeks:
    """An empty root with the weekly job."""
    return Weeks(str(tmp_path / "root"), tmp_path, report='outcome = "satisfied"\n')


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the last of twelve ordinary weeks."""
    folder = tmp_path_factory.mktemp("ordinary")
    weeks = Weeks(str(folder / "root"), folder, report='outcome = "satisfied"\n')
    quarter(weeks)
    return numbers.collect(weeks.job(), period=LAST)


def codes(found: dict[str, Any]) -> dict[str, str]:
    """Cautions by code: their level."""
    return {one["code"]: one["level"] for one in found["cautions"]}


def text_of(found: dict[str, Any], code: str) -> str:
    (text,) = [one["text"] for one in found["cautions"] if one["code"] == code]
    return str(text)


def by_group(found: dict[str, Any]) -> dict[str | None, dict[str, Any]]:
    return {row["group"]: row for row in found["groups"]}


# --- numbers


def test_a_share_has_the_interval_of_a_mean(ordinary: dict[str, Any]) -> None:
    """Mean probability plus and minus 1.96 standard errors."""
    row = by_group(ordinary)["Harbor Lamp"]
    half = 1.96 * 0.2 / (960 + 11 * 11) ** 0.5
    assert row["rows"] == 1081
    assert row["interval"] == pytest.approx([row["value"] - half, row["value"] + half], abs=1e-5)


def test_wilson_knows_the_textbook() -> None:
    """10 of 100 is 5.5 % to 17.4 %, and none of 40 is not surely none."""
    assert figures.wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert figures.wilson(0, 40) == pytest.approx((0.0, 0.0876), abs=1e-4)


def test_a_change_is_told_only_where_its_interval_excludes_zero(ordinary: dict[str, Any]) -> None:
    """One product fell; whatever includes 0 is no clear change."""
    rows = by_group(ordinary)
    assert (rows["Kestrel Bike"]["verdict"], rows["Kestrel Bike"]["change"] < -0.05) == ("down", True)
    for row in rows.values():
        low, high = row["change_interval"]
        assert (row["verdict"] == "no clear change") == (low <= 0 <= high)


def test_below_thirty_rows_there_is_no_number(weeks: Weeks) -> None:
    """29 rows are not enough data, 30 are; neither then nor before."""
    weeks.add("2026-W45", Groups({"a": (29, 0.5), "b": (30, 0.5), "c": (500, 0.5)}))
    weeks.add(LAST, Groups({"a": (500, 0.5), "b": (29, 0.5), "c": (30, 0.5)}))
    found = by_group(numbers.collect(weeks.job(), period=LAST))
    assert (found["b"]["value"], found["b"]["interval"]) == (None, None)
    assert found["c"]["value"] == 0.5
    assert [found[name]["verdict"] for name in "abc"] == ["not enough data", "not enough data", "no clear change"]


def test_missing_weeks_are_gaps(weeks: Weeks) -> None:
    """A week without a completed run is None in every line, and is named; weeks before the first run are not."""
    names = weeks_before(LAST)
    for name in (names[3], names[4], names[8], names[11]):
        weeks.add(name, Groups({"a": (100, 0.5)}))
    found = numbers.collect(weeks.job(), period=LAST)
    assert [value is not None for value in found["groups"][0]["history"]] == [n in {3, 4, 8, 11} for n in range(12)]
    assert found["overall"]["verdict"] == "nothing to compare with"
    assert set(codes(found)) == {"no_previous"}
    weeks.add(names[10], Groups({"a": (100, 0.5)}))
    gaps = text_of(numbers.collect(weeks.job(), period=LAST), "gaps")
    assert (names[9] in gaps, names[5] in gaps, names[2] in gaps) == (True, True, False)


@pytest.mark.parametrize(
    ("unit", "last"),
    [("hour", "2026-10-25T05+0100"), ("day", "2026-04-02"), ("week", "2027-W02"), ("month", "2027-01")],
)
def test_twelve_periods_follow_each_other(weeks: Weeks, unit: str, last: str) -> None:
    """Without holes, over a change of the clocks and a turn of the year."""
    weeks.schedule = f'[schedule]\ntimezone = "Europe/Berlin"\nperiod = "{unit}"\n'
    found = [parse_period(name, unit, "Europe/Berlin") for name in past.names_before(weeks.job(), last)]
    assert (len(found), found[-1].name) == (12, last)
    assert all(one.end == following.start for one, following in pairwise(found))


def test_what_is_read_is_bounded(weeks: Weeks, monkeypatch: pytest.MonkeyPatch) -> None:
    """One LIST of the receipts and two GETs a week, however many weeks there were; besides, where evaluations would be."""
    for name in weeks_before(LAST, 20):
        weeks.add(name, Groups({"a": (100, 0.5)}))
    asked: list[tuple[str, str]] = []
    for verb in ("list", "get"):
        honest = getattr(LocalStorage, verb)

        def spy(self: Any, uri: str, *args: Any, _honest: Any = honest, _verb: str = verb, **more: Any) -> Any:
            asked.append((_verb, uri.removeprefix(weeks.root)))
            return _honest(self, uri, *args, **more)

        monkeypatch.setattr(LocalStorage, verb, spy)
    numbers.collect(weeks.job(), period=LAST)
    lists = [uri for verb, uri in asked if verb == "list" and not uri.endswith("/evaluations/")]
    gets = [uri for verb, uri in asked if verb == "get"]
    assert lists == ["/done/weekly-satisfaction/"]
    assert len(gets) == len(set(gets)) == 24


def test_a_regressor_has_means(weeks: Weeks) -> None:
    """Means have no percent signs, no upper limit and no share's words."""
    weeks.report = 'outcome = "revenue in EUR"\n'
    quarter(weeks, kind="mean")
    found = numbers.collect(weeks.job(), period=LAST)
    assert found["measure"]["kind"] == "mean"
    assert by_group(found)["Harbor Lamp"]["interval"][1] > 700
    assert found["headline"].startswith("Predicted revenue in EUR: ")
    assert " points" not in found["headline"] + found["lede"]


def test_more_classes_have_the_share_of_the_most_common_one(weeks: Weeks) -> None:
    """By group, with Wilson's interval; the other classes are counted."""
    quarter(weeks, kind="classes")
    found = numbers.collect(weeks.job(), period=LAST)
    row = by_group(found)["Harbor Lamp"]
    assert (found["measure"]["kind"], found["measure"]["label"]) == ("classes", "basic")
    assert row["value"] == row["labels"]["basic"] / row["rows"]
    assert row["interval"] == pytest.approx(figures.wilson(row["labels"]["basic"], row["rows"]))
    assert "Predicted classes" in page.render(found)


@pytest.mark.parametrize(
    ("labels", "classes", "wanted"), [((0, 1), None, "1"), (("yes",), ["yes", "no"], "no"), ((9, 10), None, "10")]
)
def test_a_share_is_of_the_second_class(labels: tuple[Any, ...], classes: list[str] | None, wanted: str) -> None:
    """As the profile orders them; where it does not say, numbers are ordered as numbers."""
    scores, counts = {"champion": {"column": "probability"}}, {"champion": {str(one): 5 for one in labels}}
    profile = {"scores": scores, "labels": counts, "classes": classes}
    assert figures.measure_of(profile, "").label == wanted


@pytest.mark.parametrize(
    ("scored", "classes", "kind"),
    [
        (True, ["0", "1"], "share"),
        (True, ["a", "b", "c"], "classes"),
        (False, ["0", "1"], "classes"),
        (True, [], "mean"),
    ],
)
def test_what_is_told_goes_by_the_model(scored: bool, classes: list[str], kind: str) -> None:
    """Only of two classes is the probability of one worth telling alone; without probabilities rows are counted."""
    scores = {"champion": {"column": "p"}} if scored else {}
    profile = {"scores": scores, "labels": {"champion": dict.fromkeys(classes, 3)}, "classes": classes}
    assert figures.measure_of(profile, "").kind == kind


def test_splits_are_one_whole(weeks: Weeks) -> None:
    """The whole of a split is all delivered rows, weighed by how many each variant scored; a shadow is none of them."""
    receipt = weeks.add(LAST, Groups({"a": (900, 0.5)}))
    champion = receipt["models"][0]
    receipt["models"] = [champion | {"rows": 800}, champion | {"variant": "b", "rows": 100}, champion | {"variant": "c", "mode": "shadow"}]  # fmt: skip
    scores = {name: {"column": "p", "rows": rows, "mean": mean, "sd": 0.0} for name, rows, mean in (("champion", 800, 0.5), ("b", 100, 0.95), ("c", 900, 0.0))}  # fmt: skip
    cell = figures.overall({"scores": scores, "labels": {}, "groups": None}, receipt)
    assert (cell.rows, cell.mean) == (900, pytest.approx(0.55))
    assert cell.sd == pytest.approx((8 / 9 * 0.05**2 + 1 / 9 * 0.4**2) ** 0.5)


def test_without_a_profile_there_is_not_enough_data(weeks: Weeks) -> None:
    """A run from before profiles: its rows are told, no average is, and the reason is."""
    weeks.add("2026-W45", Groups({"a": (100, 0.5)}), profile=False)
    weeks.add(LAST, Groups({"a": (100, 0.5)}), profile=False)
    found = numbers.collect(weeks.job(), period=LAST)
    assert found["headline"] == "Not enough data for an average: 100 rows predicted"
    assert (found["groups"], codes(found)["no_profile"]) == ([], "warn")
    assert "not enough data" in page.render(found)
    assert workbook.render(found)[:2] == b"PK"


def test_without_periods_the_newest_run_is_told(weeks: Weeks) -> None:
    """A job without a schedule reports its newest run, and the line is over its runs."""
    weeks.schedule, weeks.source, weeks.output = "", "in/a.csv", "out/satisfaction.csv"
    for name in weeks_before(LAST, 3):
        weeks.add(name, Groups({"a": (100, 0.5)}), period=None, subject="-", files=("out/satisfaction.csv",))
    found = numbers.collect(weeks.job())
    assert (found["period"], len(found["history"]), found["unit"]) == (None, 3, "")
    assert "the run before" in found["headline"]


def test_a_period_without_a_run_is_refused(weeks: Weeks) -> None:
    """The message names the period, the hint the newest one that is done."""
    weeks.add("2026-W45", Groups({"a": (100, 0.5)}))
    with pytest.raises(UsageError, match="no completed run of 2026-W46") as refused:
        numbers.collect(weeks.job(), period=LAST)
    assert "2026-W45" in refused.value.hint


# --- cautions


def test_ordinary_weeks_need_no_caution(ordinary: dict[str, Any]) -> None:
    """Nothing is cried where nothing is wrong."""
    assert codes(ordinary) == {}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "row_count": ({"groups": Groups({"a": (200, 0.5)})}, "200 rows, where 1,000 are usual: the file may be incomplete"),
    "rejects": ({"rejected": {"null": 90, "parse": 10}}, "100 of 1,100 rows (9.1 %, 0.0 % is usual) were rejected"),
    "model_changed": ({"version": 2}, "satisfaction 2 made these predictions, satisfaction 1 those of the week before"),
    "gone": ({"groups": Groups({"a": (1000, 0.5)})}, "No rows of b, which had 400 the week before."),
    "new": ({"groups": Groups({"a": (600, 0.5), "b": (400, 0.5), "z": (40, 0.5)})}, "New: z, without rows"),
    "low_n": ({"groups": Groups({"a": (980, 0.5), "b": (20, 0.5)})}, "fewer than 30 rows) for b."),
    "late": ({"began": timedelta(days=2)}, "Late: the run began 2 days after the week ended."),
    "early": ({"began": timedelta(hours=-5)}, "began before the week was over"),
    "retry": ({"retry_of": "0123456789abcdef"}, "Rejected rows of run 0123456789abcdef were mended"),
    "too_many_groups": ({"groups": Groups({"a": (1000, 0.5)}, too_many=True)}, "'product' has too many values"),
    "drift_unknown": ({"drift": {"state": "unknown", "columns": [], "reason": "no reference"}}, "no reference"),
}  # fmt: skip


@pytest.mark.parametrize("code", CASES)
def test_each_caution_has_its_sentence(weeks: Weeks, code: str) -> None:
    """Told where it applies, with the facts in it."""
    for name in weeks_before(LAST, 5)[:-1]:
        weeks.add(name, Groups({"a": (600, 0.5), "b": (400, 0.5)}))
    arguments, wanted = CASES[code]
    weeks.add(LAST, **{"groups": Groups({"a": (600, 0.5), "b": (400, 0.5)}), **arguments})
    assert wanted in text_of(numbers.collect(weeks.job(), period=LAST), code)


def test_a_backfill_is_not_late(weeks: Weeks) -> None:
    """It says that it was filled in afterwards."""
    weeks.add(LAST, Groups({"a": (100, 0.5)}), began=timedelta(days=40), trigger="backfill")
    assert text_of(numbers.collect(weeks.job(), period=LAST), "late").startswith("Filled in afterwards, 6 weeks after")


def test_drift_is_named_by_column(weeks: Weeks) -> None:
    """The worst columns with their index, and the level of the drift itself."""
    base = {
        "kind": "numeric",
        "against": "training",
        "limit_warn": 0.1,
        "limit_alert": 0.25,
        "nulls": 0.0,
        "reference_nulls": 0.0,
    }
    columns = [{"column": "age", "role": "feature", "psi": 0.41, "state": "alert", **base}]
    columns += [{"column": "probability", "role": "score", "psi": 0.2, "state": "warn", **base}]
    columns += [{"column": "spend", "role": "feature", "psi": 0.01, "state": "ok", **base}]
    weeks.add(LAST, Groups({"a": (100, 0.5)}), drift={"state": "alert", "columns": columns, "rows": 100, "reason": ""})
    found = numbers.collect(weeks.job(), period=LAST)
    assert found["cautions"][0]["level"] == "alert"
    assert text_of(found, "drift").endswith("age (PSI 0.41), the predictions (PSI 0.20).")
    assert "strong drift" in page.render(found)


def test_late_labels_correct_the_reader(weeks: Weeks) -> None:
    """The newest judged period says what was predicted and what happened, and which way to read the numbers."""
    quarter(weeks)
    weeks.evaluate("2026-W44", 0.189, 0.132)
    found = numbers.collect(weeks.job(), period=LAST)
    assert found["evaluation"]["period"] == "2026-W44"
    told = "Labels that arrived later for 2026-W44: the model predicted 18.9 % where 13.2 % happened."
    assert text_of(found, "calibration") == told + " Read the predictions here as too high."
    assert "worse in ROC AUC" in text_of(found, "degraded")
    assert "no clear change from the week before" in found["headline"]
    assert 'class="num happened"' not in page.render(found)  # labels of another week say nothing about a group's bar


def test_labels_of_this_week_stand_in_the_bars(weeks: Weeks) -> None:
    """A diamond and the number for each group with enough labels."""
    quarter(weeks)
    weeks.evaluate(LAST, 0.6, 0.5, groups={"Harbor Lamp": (1_000, 0.7, 0.55), "Kestrel Bike": (29, 0.7, 0.1)})
    found = numbers.collect(weeks.job(), period=LAST)
    html = page.render(found)
    assert re.fullmatch(r"[\d.]+ % predicted satisfied, but 50.0 % were", found["headline"])
    assert re.match(r"No clear change from the week before \([\d.]+ %\)\. Highest is ", found["lede"])
    assert html.count('class="seen" d=') == 1
    assert "happened: </i>55.0\N{NO-BREAK SPACE}%" in html


def test_many_groups_are_many_chances(weeks: Weeks) -> None:
    """With twenty groups, one in twenty looks changed by chance, and the report says so."""
    for name, shift in (("2026-W45", 0.0), (LAST, 0.0)):
        of: dict[str | None, tuple[int, float]] = {f"g{n:02d}": (400, 0.5 + shift) for n in range(20)}
        of["g00"] = (400, 0.5 if name == "2026-W45" else 0.8)
        weeks.add(name, Groups(of))
    found = numbers.collect(weeks.job(), period=LAST)
    assert found["changes"] == {"compared": 20, "clear": 1, "by_chance": 1.0}
    assert "about 1 would still look clearly changed" in text_of(found, "multiple")


# --- the page


class Tags(HTMLParser):
    """Every tag of a page, held to nesting."""

    VOID = frozenset({"meta", "br", "line", "rect", "circle", "path"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile_groups(count: int) -> Groups:
    """Names that want to be markup, formulas, links, mentions, or very long."""
    names = [HOSTILE, '"><img src=x onerror=alert(1)>', '=HYPERLINK("http://evil")', "@all <!channel> [a](http://evil)", "+1", "a\nb\t<b>", "", "x" * 5_000, "&lt;" * 400]  # fmt: skip
    names += [f"{'<&>' * 60}{number}" for number in range(count - len(names))]
    return Groups(
        {None: (500, 0.4), **{name: (40 + number % 900, 0.3 + number % 7 / 20) for number, name in enumerate(names)}}
    )


@pytest.mark.parametrize("count", [9, 60, 200, 999])
def test_the_page_stays_small_and_harmless(weeks: Weeks, count: int) -> None:
    """Under 100 kB with any number of groups; well-formed; no script, no address, no style from anywhere."""
    for name in ("2026-W45", LAST):
        weeks.add(name, hostile_groups(count))
    html = page.render(numbers.collect(weeks.job(), period=LAST))
    tags = Tags(html)
    assert len(html.encode()) < page.MAX_BYTES
    assert tags.open == []
    assert {tag for tag, _ in tags.seen} & {"script", "img", "link", "iframe", "a", "object", "base", "form"} == set()
    assert [name for _, attrs in tags.seen for name in attrs if name.startswith("on") or name in {"style", "src", "href"}] == []  # fmt: skip
    assert HOSTILE in "".join(tags.texts)
    left = [int(found) for found in re.findall(r"<p>(\d+) (?:more|groups) with", html)]
    shown = html.count('<th role="rowheader"') + html.count('<tr><th scope="row">')
    assert shown + sum(left) == count + 1


def test_smaller_groups_are_folded(weeks: Weeks) -> None:
    """25 with bars, the others as numbers in a list to unfold: none is lost."""
    of: dict[str | None, tuple[int, float]] = {f"group {n:03d}": (1000 - n, 0.5) for n in range(200)}
    weeks.add("2026-W45", Groups(of))
    weeks.add(LAST, Groups(of))
    html = page.render(numbers.collect(weeks.job(), period=LAST))
    assert html.count('role="rowheader"') == 25
    assert "<summary>175 smaller groups</summary>" in html
    assert all(name in html for name in of if name)


@pytest.mark.slow
def test_a_narrow_screen_is_wide_enough(weeks: Weeks, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 320 CSS pixels (WCAG 2.2, 1.4.10) nothing has to be pushed sideways, whatever the names are: Chromium says so."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("needs a Chromium on the path")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs" / "images"))
    from chromium import Chromium, Look

    for name in ("2026-W45", LAST):
        weeks.add(name, hostile_groups(200), rejected={"null": 500})
    weeks.evaluate(LAST, 0.4, 0.3, groups={HOSTILE: (400, 0.4, 0.2)})
    file = weeks.folder / "report.html"
    file.write_text(page.render(numbers.collect(weeks.job(), period=LAST)), "utf-8")
    with Chromium() as browser:
        assert {width: browser.width(file, Look(width)) for width in (320, 360, 1000)} == {
            320: 320,
            360: 360,
            1000: 1000,
        }


def test_the_page_and_its_style_are_shipped() -> None:
    """Every file of the package that is no module stands in the metadata."""
    metadata = ConfigParser()
    metadata.read(Path(__file__).parents[1] / "setup.cfg", "utf-8")
    files = {one.name for one in Path(page.__file__).parent.iterdir() if one.suffix != ".py" and one.is_file()}
    assert set(metadata["options.package_data"]["batch.report"].split(", ")) == files


def test_the_policy_allows_this_style_alone(ordinary: dict[str, Any]) -> None:
    """The digest in the policy is that of the style sheet, and nothing else may be loaded."""
    html = page.render(ordinary)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert re.findall(r"url\(|@import|https?:", html) == []


def test_the_page_speaks_to_those_who_do_not_see_it(ordinary: dict[str, Any]) -> None:
    """One h1, titled sections, a caption, roles that survive the cards of a narrow screen, and words for the drawings."""
    tags = Tags(page.render(ordinary)).seen
    names = [tag for tag, _ in tags]
    labelled = {attrs["aria-labelledby"] for tag, attrs in tags if tag == "section"}
    assert (names.count("h1"), names.count("caption"), names.count("main")) == (1, 1, 1)
    assert labelled <= {attrs.get("id") for tag, attrs in tags if tag == "h2"}
    drawings = [attrs for tag, attrs in tags if tag == "svg" and "x" not in attrs]
    assert all(one.get("aria-label") or one.get("aria-hidden") == "true" for one in drawings)
    (told,) = [one["aria-label"] for one in drawings if "aria-label" in one]
    assert f"{LAST} {words.value(ordinary['overall']['value'], 'share')}" in str(told)


def luminance(color: str) -> float:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_has_contrast() -> None:
    """4.5 to 1 against the paper, in light, dark and print (WCAG 2.2, 1.4.3)."""
    style = Path(page.__file__).with_name("style.css").read_text("utf-8")
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]  # fmt: skip
    assert len(themes) == 3
    for theme in themes:
        for name in ("ink", "muted", "accent", "warn", "alert"):
            light, dark = sorted((luminance(theme[name]), luminance(theme["paper"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, theme)


def test_a_bar_cannot_leave_its_chart() -> None:
    """Whatever the value, positions are between 0 and 100 per cent."""
    on = charts.scale([0.2, 0.4], from_zero=True)
    drawing = str(charts.bar(on, 7.0, (-3.0, 9.0), whole=0.3, observed=-1.0))
    assert all(0 <= float(found) <= 100 for found in re.findall(r'"(-?[\d.]+)%"', drawing))


def test_a_scale_has_round_steps_around_its_values() -> None:
    """Also of one value, of none and of negative ones."""
    for values, zero in (([0.131, 0.189], True), ([5.0], False), ([], False), ([-310.0, 42.0], False), ([0.0], True)):
        on = charts.scale(values, from_zero=zero)
        assert on.low < on.high
        assert all(0 <= on.at(value) <= 100 and on.low <= value <= on.high for value in values)
        assert 2 <= len(on.ticks) <= 8


# --- the workbook


def sheets(body: bytes) -> dict[str, str]:
    """Parts of the file by name."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith((".xml", ".rels"))}


def test_the_workbook_holds_no_formula_and_no_link(weeks: Weeks) -> None:
    """A group that is named like a formula is text; numbers are numbers; nothing refers to another file."""
    for name in ("2026-W45", LAST):
        weeks.add(name, hostile_groups(30))
    parts = sheets(workbook.render(numbers.collect(weeks.job(), period=LAST)))
    pages = {name: text for name, text in parts.items() if name.startswith("xl/worksheets/sheet")}
    assert len(pages) == 5
    assert [name for name, text in pages.items() if "<f>" in text or "<hyperlink" in text] == []
    assert [name for name, text in parts.items() if 'TargetMode="External"' in text] == []
    assert "=HYPERLINK" in parts["xl/sharedStrings.xml"]


def test_the_workbook_has_numbers_charts_and_frozen_heads(ordinary: dict[str, Any]) -> None:
    """Five sheets; the value of a group is the very number; the first row of each table stays; charts are Excel's own."""
    parts = sheets(workbook.render(ordinary))
    names = re.findall(r'<sheet name="(\w+)"', parts["xl/workbook.xml"])
    assert names == ["Summary", "Groups", "History", "Drift", "About"]
    space = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    groups = ET.fromstring(parts["xl/worksheets/sheet2.xml"])
    cell = groups.find(".//m:c[@r='C2']", space)
    assert cell is not None
    assert cell.get("t") is None
    assert float(cell.findtext("m:v", "", space)) == pytest.approx(ordinary["groups"][0]["value"])
    assert all('state="frozen"' in parts[f"xl/worksheets/sheet{number}.xml"] for number in (2, 3, 4, 5))
    drawn = [text for name, text in parts.items() if name.startswith("xl/charts/chart")]
    assert sorted(re.findall(r"<c:(barChart|lineChart)>", "".join(drawn))) == ["barChart", "lineChart", "lineChart"]


def test_the_workbook_says_what_happened(weeks: Weeks) -> None:
    """Labels of this week stand behind the groups, and the whiskers of the chart behind those."""
    quarter(weeks)
    weeks.evaluate(LAST, 0.6, 0.5, groups={"Harbor Lamp": (1_000, 0.7, 0.55)})
    parts = sheets(workbook.render(numbers.collect(weeks.job(), period=LAST)))
    (row,) = re.findall(r'<row r="2".*?</row>', parts["xl/worksheets/sheet2.xml"], re.DOTALL)
    assert re.findall(r'<c r="[LM]2"[^>]*><v>([^<]*)</v>', row) == ["0.55", "1000"]
    bars = next(text for name, text in parts.items() if name.startswith("xl/charts/") and "barChart" in text)
    assert re.findall(r"Groups!\$([NO])\$2:", bars) == ["O", "N"]


# --- the summary


def test_the_summary_fits_a_message(weeks: Weeks) -> None:
    """Under 3,000 characters with any names, and its last lines are always there."""
    for name in ("2026-W45", LAST):
        weeks.add(name, hostile_groups(200), rejected={"null": 500})
    found = numbers.collect(weeks.job(), period=LAST)
    for markdown in (True, False):
        text = words.summary(found, "https://files.example.com/report.html", markdown=markdown)
        assert len(text) < 3_000
        assert text.splitlines()[-1] == "Report: https://files.example.com/report.html"
        assert found["run"]["run_id"] in text


def test_a_name_cannot_turn_a_sentence_around() -> None:
    """Control characters and overrides of the writing direction are not shown; other alphabets are."""
    assert words.group("a\u202eb\x00c\n d", "x") == "a b c d"
    assert words.group("\u0641\u0627\u200c\u0631", "x") == "\u0641\u0627\u200c\u0631"
    assert (words.group(None, "product"), words.group("\u2066", "x")) == ("(no product)", "(blank)")


def test_names_are_no_markdown(weeks: Weeks) -> None:
    """A link or a tag in a name stays the text that it is."""
    weeks.add(LAST, Groups({"[a](http://evil) <b>": (100, 0.5), "*c*": (100, 0.2)}))
    text = words.summary(numbers.collect(weeks.job(), period=LAST))
    assert r"\[a\](http://evil) \<b\>" in text
    assert r"\*c\*" in text


# --- delivery


def stored(weeks: Weeks) -> dict[str, str]:
    """Report files below the root with their ETags."""
    found = storage_for(weeks.root).list(f"{weeks.root}/")
    return {info.uri.removeprefix(f"{weeks.root}/"): info.etag for info in found if ".report." in info.uri or "/report." in info.uri}  # fmt: skip


def test_files_stand_beside_the_predictions(weeks: Weeks) -> None:
    """Named after the output; remembered in the run's folder; a second delivery does nothing."""
    receipt = weeks.add(LAST, Groups({"a": (100, 0.5)}))
    told: list[str] = []
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    record = f"runs/weekly-satisfaction/{receipt['run_id']}/report.json"
    beside = {f"out/{LAST}/satisfaction.report.{kind}" for kind in ("html", "xlsx", "json", "md")}
    first = stored(weeks)
    assert (told, set(first)) == ([], {record, *beside})
    assert weeks.json(f"out/{LAST}/satisfaction.report.json")["headline"].startswith("50.0 % predicted satisfied")
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (told, stored(weeks)) == ([], first)


def test_a_new_run_of_the_period_replaces_the_files(weeks: Weeks) -> None:
    """Same names, new content; the older run's report, asked for again, does not come back over it."""
    old = weeks.add(LAST, Groups({"a": (100, 0.5)}))
    told: list[str] = []
    deliver.deliver(weeks.job(), old, notice=told.append)
    new = weeks.add(LAST, Groups({"a": (100, 0.9)}), suffix="-2")
    deliver.deliver(weeks.job(), new, notice=told.append)
    found = weeks.json(f"out/{LAST}/satisfaction.report.json")
    assert (told, found["run"]["run_id"], found["overall"]["value"]) == ([], new["run_id"], 0.9)
    assert "scored_again" in codes(found)
    late = numbers.collect(weeks.job(), receipt=old)
    deliver.deliver_numbers(weeks.job(), late, notice=told.append)
    assert "holds the predictions of run" in told[0]
    assert weeks.json(f"out/{LAST}/satisfaction.report.json")["run"]["run_id"] == new["run_id"]


def test_files_go_to_s3(moto_bucket: str, tmp_path: Path) -> None:
    """The same over S3: read, stored, remembered, and not done twice."""
    weeks, told = Weeks(moto_bucket, tmp_path), list[str]()
    weeks.add("2026-W45", Groups({"a": (100, 0.4)}))
    receipt = weeks.add(LAST, Groups({"a": (100, 0.5)}))
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    first = stored(weeks)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (told, len(first), stored(weeks)) == ([], 5, first)
    assert weeks.json(f"out/{LAST}/satisfaction.report.json")["overall"]["change"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("output", "files", "wanted"),
    [
        ("out/{period}/", ("out/{period}/a.csv",), "out/2026-W46/report.html"),
        ("out/{period}/", ("out/{period}/a.csv", "out/{period}/b/c.csv"), "out/2026-W46/report.html"),
        ("out/{period}/p-{stem}.csv", ("out/{period}/p-a.csv", "out/{period}/p-b.csv"), "out/2026-W46/report.html"),
        ("out/{period}.csv.gz", ("out/{period}.csv.gz",), "out/2026-W46.report.html"),
    ],
)
def test_several_outputs_have_one_report(weeks: Weeks, output: str, files: tuple[str, ...], wanted: str) -> None:
    """A folder of outputs has it under its own name in that folder."""
    weeks.output = output
    found = numbers.collect(weeks.job(), receipt=weeks.add(LAST, Groups({"a": (100, 0.5)}), files=files))
    assert deliver.report_uris(weeks.job(), found)["html"] == f"{weeks.root}/{wanted}"


def test_a_dropped_file_has_its_own_report(weeks: Weeks) -> None:
    """The folder of a drop job is shared by all its files: each report is named after its file."""
    weeks.source, weeks.output, weeks.schedule = "in/a.csv", "out/", ""
    weeks.more = f'[watch]\nprefix = "{weeks.root}/drop/"\n'
    receipt = weeks.add(LAST, Groups({"a": (100, 0.5)}), files=("out/a.csv",), period=None, subject="0123456789abcdef")
    told: list[str] = []
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (told, "out/a.report.html" in stored(weeks)) == ([], True)


@pytest.mark.parametrize(
    ("more", "source", "why"),
    [
        ('[watch]\nprefix = "{root}/out/"\n', "in/a.csv", "watched prefix"),
        ("", "out/{period}/", "would be read as an input"),
        ("", "out/*/*.html", "would be read as an input"),
    ],
)
def test_a_report_is_never_an_input(weeks: Weeks, more: str, source: str, why: str) -> None:
    """Where the next run would read it, it is not stored, and somebody is told."""
    weeks.more, weeks.source = more.replace("{root}", weeks.root), source
    receipt = weeks.add(LAST, Groups({"a": (100, 0.5)}))
    told: list[str] = []
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (len(told), why in told[0], stored(weeks)) == (1, True, {})


def test_somebody_elses_file_is_not_replaced(weeks: Weeks) -> None:
    """Unless the job says that it may replace any."""
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    uri = f"{weeks.root}/out/{LAST}/satisfaction.report.html"
    storage_for(uri).replace(uri, [b"mine"], 4)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (len(told), "is not a report of this job" in told[0]) == (1, True)
    assert storage_for(uri).get(uri) == b"mine"
    job = weeks.job()
    deliver.deliver(
        job.model_copy(update={"output": job.output.model_copy(update={"replace": "any"})}), receipt, notice=told.append
    )
    assert (len(told), (storage_for(uri).get(uri) or b"")[:9]) == (1, b"<!doctype")


def test_without_xlsxwriter_the_workbook_is_left_out(weeks: Weeks, monkeypatch: pytest.MonkeyPatch) -> None:
    """One notice with the pip line; everything else is delivered."""
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    told: list[str] = []
    deliver.deliver(weeks.job(), weeks.add(LAST, Groups({"a": (100, 0.5)})), notice=told.append)
    assert told == ["the report has no workbook: pip install 'batch-predict[report]'"]
    assert {name.rsplit(".", 1)[1] for name in stored(weeks)} == {"html", "json", "md"}


def test_nothing_that_goes_wrong_comes_out(weeks: Weeks) -> None:
    """Damaged records and plain bugs are told, never raised: the predictions are out already."""
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    uri = f"{weeks.root}/runs/weekly-satisfaction/{receipt['run_id']}/summary.json"
    storage_for(uri).replace(uri, [b"no JSON"], 7)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    storage_for(uri).replace(uri, [b'{"profile": {"scores": 7}}'], 26)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert ["is not a record" in told[0], "a bug: " in told[1], len(told)] == [True, True, 2]


# --- the webhook


class Chat:
    """A chat's server on this machine: answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[int | None] = []
        """Status codes; None answers nothing until the test is over. Then 200."""
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.over = threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                chat.paths.append(self.path)
                chat.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = chat.answers.pop(0) if chat.answers else 200
                if answer is None:
                    chat.over.wait(20)
                    return
                self.send_response(answer)
                if answer == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                chat.paths.append(f"GET {self.path}")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """The test's output is not the server's log."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/services/T0/SECRET"

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def chat() -> Iterator[Chat]:
    opened = Chat()
    yield opened
    opened.close()


def test_a_message_is_sent_once(weeks: Weeks, chat: Chat) -> None:
    """With the headline and where the report is; the record names the host and never the URL."""
    weeks.report = f'outcome = "satisfied"\nwebhook = "{chat.url}"\nlink = "https://files.example.com/{{key}}"\n'
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    (body,) = chat.bodies
    assert told == []
    assert "50.0 % predicted satisfied" in body["text"]
    assert f"https://files.example.com{weeks.root}/out/{LAST}/satisfaction.report.html" in body["text"]
    every = b"".join(storage_for(weeks.root).get(f"{weeks.root}/{name}") or b"" for name in stored(weeks))
    assert (b"127.0.0.1" in every, b"SECRET" in every) == (True, False)


def test_a_server_that_stumbles_is_asked_again(chat: Chat) -> None:
    """500 and then 200 is a success, after a wait that doubles."""
    chat.answers = [500, 503]
    clock = FakeClock()
    webhook.post(webhook.Webhook(chat.url, "text"), {"text": "x"}, clock=clock)
    assert (len(chat.bodies), clock.seconds) == (3, 3.0)


@pytest.mark.parametrize(("answers", "tries", "why"), [([500, 500, 500], 3, "answered 500"), ([404], 1, "answered 404"), ([302], 1, "answered 302")])  # fmt: skip
def test_a_server_that_refuses_is_told_by_its_host_alone(
    chat: Chat, answers: list[int | None], tries: int, why: str
) -> None:
    """Three tries where another may help; a redirect is not followed."""
    chat.answers = answers
    with pytest.raises(webhook.NotDelivered) as refused:
        webhook.post(webhook.Webhook(chat.url, "text"), {"text": "x"}, clock=FakeClock())
    assert str(refused.value) == f"the webhook at 127.0.0.1 {why}"
    assert (len(chat.paths), "SECRET" in repr(webhook.Webhook(chat.url, "text"))) == (tries, False)


def test_a_server_that_hangs_is_left(chat: Chat) -> None:
    """Each try has its time, and then it is over."""
    chat.answers = [None, None, None]
    with pytest.raises(webhook.NotDelivered, match="did not answer in time"):
        webhook.post(webhook.Webhook(chat.url, "text"), {"text": "x"}, clock=FakeClock(), timeout=0.05)


def test_only_what_is_missing_is_tried_again(weeks: Weeks, chat: Chat) -> None:
    """The chat is down: the files stand and the run is not failed; the next delivery sends the message and writes no file."""
    weeks.report = f'webhook = "{chat.url}"\n'
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    chat.answers = [503, 503, 503]
    deliver.deliver(weeks.job(), receipt, notice=told.append, clock=FakeClock())
    first = stored(weeks)
    assert told == ["the report's message was not sent: the webhook at 127.0.0.1 answered 503"]
    assert not any("runs/" in name for name in first)
    deliver.deliver(weeks.job(), receipt, notice=told.append, clock=FakeClock())
    after = stored(weeks)
    assert (len(told), len(chat.bodies)) == (1, 4)
    assert {name: etag for name, etag in after.items() if not name.startswith("runs/")} == first
    assert weeks.json(f"runs/weekly-satisfaction/{receipt['run_id']}/report.json")["webhook"] == "127.0.0.1"


def test_a_chat_that_is_added_later_has_its_message_once(weeks: Weeks, chat: Chat) -> None:
    """The report was delivered without one; the next delivery sends the message, and none sends it again."""
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    weeks.report = f'webhook = "{chat.url}"\n'
    for _ in range(3):
        found = numbers.collect(weeks.job(), receipt=receipt)
        deliver.deliver(weeks.job(), receipt, notice=told.append)
        deliver.deliver_numbers(weeks.job(), found, notice=told.append)
    assert (told, len(chat.bodies)) == ([], 1)


def test_a_refused_connection_is_told(weeks: Weeks, chat: Chat) -> None:
    """Nobody listens: a notice with the host."""
    url = chat.url
    chat.server.socket.close()
    with pytest.raises(webhook.NotDelivered, match=r"127\.0\.0\.1 (refused the connection|could not be reached)"):
        webhook.post(webhook.Webhook(url, "text"), {}, clock=FakeClock(), timeout=0.5)


def test_no_message_without_files(weeks: Weeks, chat: Chat) -> None:
    """A link to nothing is not sent."""
    weeks.report = f'webhook = "{chat.url}"\n'
    receipt, told = weeks.add(LAST, Groups({"a": (100, 0.5)})), list[str]()
    uri = f"{weeks.root}/out/{LAST}/satisfaction.report.md"
    storage_for(uri).replace(uri, [b"mine"], 4)
    deliver.deliver(weeks.job(), receipt, notice=told.append)
    assert (len(told), chat.bodies) == (1, [])


def test_a_webhook_may_be_named_by_a_variable() -> None:
    """`$NAME` keeps the secret out of the job file; an unset one is told by name."""
    found = webhook.webhook_of("$CHAT_URL", "", {"CHAT_URL": "https://hooks.slack.com/services/SECRET"})
    assert found == webhook.Webhook("https://hooks.slack.com/services/SECRET", "text")
    assert webhook.webhook_of("", "") is None
    with pytest.raises(UsageError, match="CHAT_URL, which is not set"):
        webhook.webhook_of("${CHAT_URL}", "", {})


def test_no_record_and_no_repr_holds_the_secret(weeks: Weeks) -> None:
    """What a run stores of its job names the variable, never a URL; nor does a traceback that shows the job."""
    kept = []
    for setting in ("$CHAT_URL", "https://hooks.slack.com/services/SECRET"):
        weeks.report = f'webhook = "{setting}"\n'
        job = weeks.job()
        kept.append(job.model_dump(mode="json")["report"]["webhook"])
        assert job.report.webhook == setting
        assert "SECRET" not in f"{job!r}"
    assert kept == ["$CHAT_URL", ""]


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "hooks.slack.com/SECRET", "file:///etc/passwd", "http://", "http://a:x/SECRET"]
)
def test_another_address_is_refused_without_naming_it(url: str) -> None:
    """Only http and https, and the text of the refusal holds nothing of the URL."""
    with pytest.raises(UsageError) as refused:
        webhook.webhook_of(url, "")
    assert url not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    ("host", "form", "wanted"),
    [
        ("hooks.slack.com", "", "text"),
        ("chat.acme.example", "", "text"),
        ("prod-1.westeurope.logic.azure.com", "", "teams"),
        ("a.b.environment.api.powerplatform.com", "", "teams"),
        ("notlogic.azure.com.evil.example", "", "text"),
        ("relay.acme.example", "teams", "teams"),
    ],
)
def test_the_form_goes_by_the_host(host: str, form: str, wanted: str) -> None:
    """Or by the job, where a relay hides the host."""
    found = webhook.webhook_of(f"https://{host}/x", form)
    assert found is not None
    assert found.form == wanted


def test_teams_is_sent_an_adaptive_card(ordinary: dict[str, Any]) -> None:
    """One attachment; a button only for a link that a click can open."""
    text = words.summary(ordinary, markdown=False)
    found = webhook.message("teams", text, "https://files.example.com/a.html")
    (attachment,) = found["attachments"]
    card = attachment["content"]
    assert (found["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    assert (card["type"], card["body"][0]["text"]) == ("AdaptiveCard", f"Weekly satisfaction, {LAST}")
    assert card["actions"][0]["url"] == "https://files.example.com/a.html"
    assert "actions" not in webhook.message("teams", text, "s3://bucket/a.html")["attachments"][0]["content"]


def test_a_name_mentions_nobody() -> None:
    """Neither in Slack nor in Mattermost, and no name hides a link."""
    text = webhook.message("text", "<!channel> @all <http://evil|click> [a](http://evil) & co", "")["text"]
    assert re.search(r"<|>|@all|\]\(|&(?!amp;|lt;|gt;)", text) is None


# --- the command


def run_command(weeks: Weeks, *options: str) -> Any:
    weeks.job()
    return CliRunner().invoke(program, ["report", str(weeks.folder / "weekly.toml"), *options])


def test_the_command_prints_the_summary_and_where_the_files_are(weeks: Weeks) -> None:
    """By the period that ended last; the message is not sent twice, the files are made anew."""
    weeks.add(LAST, Groups({"a": (100, 0.5)}))
    done = run_command(weeks, "--now", "2026-11-16T06:00+01:00")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "**50.0 % predicted satisfied" in done.stdout
    assert f"html  {weeks.root}/out/{LAST}/satisfaction.report.html" in done.stdout


def test_the_command_gives_the_numbers_and_stores_nothing(weeks: Weeks) -> None:
    """One JSON document, the same that stands beside the predictions."""
    weeks.add(LAST, Groups({"a": (100, 0.5)}))
    done = run_command(weeks, "--period", LAST, "--json", "--no-deliver", "--set", "report.outcome=happy")
    assert json.loads(done.stdout)["headline"].startswith("50.0 % predicted happy")
    assert stored(weeks) == {}


def test_the_command_refuses_a_period_without_a_run(weeks: Weeks) -> None:
    """Exit 2, and what to do."""
    done = run_command(weeks, "--period", LAST)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "hint: run it first" in done.stderr


# --- a real run


def test_a_real_run_can_be_reported(bench: Bench) -> None:
    """What a run leaves is what the report reads: values by group, over S3 or folders alike."""
    job = bench.job("in.csv", "out.csv", '[report]\ngroup_by = "product"\n')
    import batch

    receipt, told = batch.run(job).as_dict(), list[str]()
    deliver.deliver(job, receipt, notice=told.append)
    found = json.loads(bench.get("out.report.json") or b"")
    assert (told, found["rows"]["predicted"]) == ([], 60)
    assert (bench.get("out.report.html") or b"").startswith(b"<!doctype html>")
    rows = bench.records("out.csv")
    mean = sum(float(row["probability"]) for row in rows) / len(rows)
    assert found["overall"]["value"] == pytest.approx(mean)
    for row in found["groups"]:
        mine = [float(one["probability"]) for one in rows if one["product"] == row["group"]]
        assert row["rows"] == len(mine)
        assert row["value"] == (pytest.approx(sum(mine) / len(mine)) if len(mine) >= 30 else None)
