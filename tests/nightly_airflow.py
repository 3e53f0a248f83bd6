"""Airflow itself reads the DAG file that `schedule --as airflow` prints. Minutes: installs Airflow into an environment of its own.

    .venv/bin/python tests/nightly_airflow.py

Exits 0 when Airflow imports the file without an error, finds the DAGs in it, and knows their times where clocks change.
"""

import os
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from batch.triggers.print_airflow import print_airflow
from batch.triggers.print_entries import Surroundings, find_entries

JOB = """
name = "{name}"
root = "s3://b/root"
model = "models:/m@champion"
input.uri = "s3://b/in.csv"
output.uri = "s3://b/{name}.csv"
schedule = {{cron = "{cron}", timezone = "Europe/Berlin", period = "day"}}
"""

INSIDE = """
import sys
import pendulum
from airflow.timetables.trigger import CronTriggerTimetable
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
assert not bag.import_errors, bag.import_errors
assert sorted(bag.dags) == ["batch-predict-night", "batch-predict-weekly"], list(bag.dags)
for dag in bag.dags.values():
    (task,) = dag.tasks
    assert (dag.catchup, dag.max_active_runs, task.retries, list(task.skip_on_exit_code)) == (False, 1, 3, [75])
    assert dag.timezone.name == "Europe/Berlin", dag.timezone
for start, end in (("2026-03-28T12:00", "2026-03-29T12:00"), ("2026-10-24T12:00", "2026-10-25T12:00")):
    timetable = CronTriggerTimetable("30 2 * * *", timezone="Europe/Berlin")
    first = timetable._get_next(pendulum.parse(start))
    assert first < pendulum.parse(end) <= timetable._get_next(first), (first, end)
import airflow
print(f"Airflow {airflow.__version__} reads {len(bag.dags)} DAGs")
"""


def main() -> int:
    """Print, install, ask."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, cron in (("weekly", "0 6 * * MON"), ("night", "30 2 * * *")):
            (place / f"{name}.toml").write_text(JOB.format(name=name, cron=cron), "utf-8")
        entries, _ = find_entries([str(place / "weekly.toml"), str(place / "night.toml")])
        (place / "dags").mkdir()
        for name, text in print_airflow(entries, Surroundings("/opt/batch-predict", datetime.now(UTC), {})).items():
            (place / "dags" / name).write_text(text, "utf-8")
        venv.create(place / "venv", with_pip=True)
        python = str(place / "venv/bin/python")
        install = [python, "-m", "pip", "install", "-q", "apache-airflow-core", "apache-airflow-providers-standard"]
        subprocess.run(install, check=True)
        environment = {**os.environ, "AIRFLOW_HOME": str(place / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        return subprocess.run([python, "-c", INSIDE, str(place / "dags")], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
