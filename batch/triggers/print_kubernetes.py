"""Schedules as Kubernetes objects: a ConfigMap with the job file and a CronJob per job, in one YAML stream."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from batch.errors import UsageError
from batch.triggers.print_entries import (
    EXIT_CODES,
    NEEDS_A_PERSON,
    STOP_SECONDS,
    Entry,
    Surroundings,
    as_lines,
    check_days,
    local_paths,
    skipped_in_spring,
)

_NAME_LENGTH: Final = 52  # of a CronJob: its Jobs' names add 11 characters to it
_HEADROOM: Final = 1.25  # over [run] memory, which the program keeps by estimate: a pod over its limit is killed


def print_kubernetes(entries: Sequence[Entry], around: Surroundings) -> dict[str, str]:
    """One file, for ``kubectl apply -f``. Raises `UsageError` for what a cluster would read differently."""
    names = _object_names(entries)
    head = [
        "# Printed by `batch-predict schedule --as kubernetes`. For Kubernetes 1.31 or newer: kubectl apply -f THIS_FILE",
        "# Credentials: a Secret `batch-predict` with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a service account with a role.",
        "# Exit codes:",
        *(f"#   {line}" for line in EXIT_CODES),
    ]
    documents = [document for entry in entries for document in _documents(entry, names[entry.name], around)]
    return {"cronjobs.yaml": "\n".join(head) + "\n" + "".join(f"---\n{document}" for document in documents)}


def _object_names(entries: Sequence[Entry]) -> dict[str, str]:
    """Names that a cluster allows, by job. Raises `UsageError` where two jobs get the same one."""
    names: dict[str, str] = {}
    for entry in entries:
        name = re.sub(r"[^a-z0-9]+", "-", entry.name)[:_NAME_LENGTH].strip("-")
        if name in names.values():
            other = next(job for job, taken in names.items() if taken == name)
            raise UsageError(
                f"'{other}' and '{entry.name}' would both be the CronJob '{name}'", hint="rename one of them"
            )
        names[entry.name] = name
    return names


def _documents(entry: Entry, name: str, around: Surroundings) -> list[str]:
    check_days(entry, "Kubernetes")
    with open(entry.path, encoding="utf-8") as file:
        return [_config_map(name, file.read()), _cron_job(entry, name, around)]


def _config_map(name: str, text: str) -> str:
    return f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {json.dumps(name)}
  labels: {{app.kubernetes.io/name: batch-predict}}
data:
  job.toml: {_block(text, 4)}
"""


def _block(text: str, indent: int) -> str:
    """`text` as it is, where YAML can hold it so, else with escapes."""
    if not text.strip() or not text.endswith("\n") or not text.replace("\n", "").replace("\t", "").isprintable():
        return _escaped(text)
    lines = "\n".join(f"{' ' * indent}{line}" if line else "" for line in text.removesuffix("\n").split("\n"))
    keep = "+" if text.endswith("\n\n") else ""
    return f"|2{keep}\n{lines}"


def _escaped(text: str) -> str:
    """A YAML string in one line. Not JSON's: YAML reads its pairs of surrogates as two characters."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in plain) + '"'


def _warnings(entry: Entry, around: Surroundings) -> list[str]:
    found = []
    if places := local_paths(entry.job):
        found.append(
            f"WARNING: {', '.join(places)} would lie in the pod and be lost with it: give s3:// URIs or mount a volume there."
        )
    found += [
        f"WARNING: the job's time does not exist on {day}, when the clocks go forward, and Kubernetes skips it: choose another hour."
        for day in skipped_in_spring(entry.cron, around.now)[:1]
    ]
    return found


def _cron_job(entry: Entry, name: str, around: Surroundings) -> str:
    now = around.now
    return f"""\
{as_lines([f"# {line}" for line in _warnings(entry, around)])}apiVersion: batch/v1
kind: CronJob
metadata:
  name: {json.dumps(name)}
  labels: {{app.kubernetes.io/name: batch-predict}}
  annotations: {{batch-predict/job: {json.dumps(entry.name)}}}
spec:
  schedule: {json.dumps(entry.cron.text)}
  timeZone: {json.dumps(entry.cron.timezone)}
  # Overlap would be harmless, the second run ends with 75, but useless.
  concurrencyPolicy: Forbid
  # A fire that was missed is made up for until the next one is due.
  startingDeadlineSeconds: {entry.cron.shortest_interval_seconds(now)}
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      # The deadline of one fire, tries included: a run that hangs must not keep the next ones from starting.
      activeDeadlineSeconds: {entry.deadline_seconds(now)}
      # Tries after 10, 20, 40 … 320 s: 69 and 143, and 75 until the other run is done; each resumes where the last one ended.
      backoffLimit: 6
      podFailurePolicy:
        rules:
          # The node went, not the run.
          - action: Ignore
            onPodConditions:
              - {{type: DisruptionTarget, status: "True"}}
          # Trying again does not change these.
          - action: FailJob
            onExitCodes:
              containerName: batch-predict
              operator: In
              values: {json.dumps(list(NEEDS_A_PERSON))}
      template:
        metadata:
          labels: {{app.kubernetes.io/name: batch-predict, batch-predict/cronjob: {json.dumps(name)}}}
        spec:
{_pod(entry, name, around)}"""


def _pod(entry: Entry, name: str, around: Surroundings) -> str:
    """What the template of the pod's spec says, indented to stand there."""
    memory = entry.job.run.memory
    environment = [
        f"                - {{name: {key}, value: {_escaped(value)}}}" for key, value in around.environment.items()
    ]
    return f"""\
          restartPolicy: Never
          terminationGracePeriodSeconds: {STOP_SECONDS}
          automountServiceAccountToken: false
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            runAsGroup: 10001
            seccompProfile: {{type: RuntimeDefault}}
          containers:
            - name: batch-predict
              image: {_escaped(around.image)}
              args: {json.dumps(entry.arguments("/jobs/job.toml"))}
{as_lines(["              env:", *environment] if environment else [])}\
              envFrom:
                - secretRef: {{name: batch-predict, optional: true}}
              resources:
                requests: {{cpu: "1", memory: "{memory}"}}
                limits: {{memory: "{int(memory * _HEADROOM)}"}}
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities: {{drop: [ALL]}}
              volumeMounts:
                - {{name: job, mountPath: /jobs, readOnly: true}}
                - {{name: tmp, mountPath: /tmp}}
          volumes:
            - name: job
              configMap: {{name: {json.dumps(name)}}}
            - name: tmp
              emptyDir: {{sizeLimit: 10Gi}}
"""
