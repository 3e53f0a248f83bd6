"""Schedules as an Airflow DAG file: one DAG per job, for Airflow 2.8 or newer and 3."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Final

from batch.triggers.print_entries import EXIT_CODES, Entry, Surroundings, check_days

_TIME: Final = "{{ ((data_interval_end | default(none)) or dag_run.run_after).isoformat() }}"

_HEAD: Final = '''\
"""Printed by `batch-predict schedule --as airflow`; put it into the dags folder.

batch-predict and the job files must be where they are here on every worker. Exit codes:
{codes}
A task is tried again after any failure but 75, which skips it; where trying again does not help (2 to 6, 77) it costs a second and changes
nothing. Airflow's own retries are safe: a run that is done is not done again, and one that was stopped is resumed.
"""

from datetime import timedelta

import pendulum

try:  # Airflow 3
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.operators.bash import BashOperator
'''

_DAG: Final = """
# {name}: {expression} {timezone}
with DAG(
    dag_id={dag_id},
    description="Batch predictions of {name}",
    schedule={schedule},
    start_date=pendulum.datetime(2024, 1, 1, tz={zone}),
    catchup=False,  # older periods: batch-predict backfill
    max_active_runs=1,
    tags=["batch-predict"],
):
    BashOperator(
        task_id="run",
        bash_command={command},
        env={environment},
        append_env=True,
        skip_on_exit_code=75,  # another run holds the lease and does the work
        retries=3,
        retry_delay=timedelta(minutes=5),
        retry_exponential_backoff=True,
        execution_timeout=timedelta(seconds={deadline}),  # the deadline of one try
    )
"""


def print_airflow(entries: Sequence[Entry], around: Surroundings) -> dict[str, str]:
    """One Python file. Raises `UsageError` for a cron that Airflow would read differently."""
    head = _HEAD.format(codes="\n".join(f"  {line}" for line in EXIT_CODES))
    return {"batch_predict_dags.py": head + "".join(_dag(entry, around) for entry in entries)}


def _dag(entry: Entry, around: Surroundings) -> str:
    check_days(entry, "Airflow")
    words = " ".join(map(shlex.quote, [around.program, *entry.arguments()]))
    # The fire that the run is about, not the time at which a worker is free. `exec`: Airflow's SIGTERM reaches the run itself.
    command = f"exec {_literally(words)} --now '{_TIME}'"
    return _DAG.format(
        name=entry.name,
        expression=entry.cron.expression,
        timezone=entry.cron.timezone,
        dag_id=json.dumps(f"batch-predict-{entry.name}"),
        schedule=json.dumps(entry.cron.text),
        zone=json.dumps(entry.cron.timezone),
        command=repr(command),
        environment=repr(around.environment),
        deadline=entry.deadline_seconds(around.now),
    )


def _literally(text: str) -> str:
    """`text` as Airflow's templates give it back."""
    braces = any(mark in text for mark in ("{{", "{%", "{#"))
    return "{% raw %}" + text + "{% endraw %}" if braces else text
