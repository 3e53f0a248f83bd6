"""A real MLflow server, its models in our runs, and our bundles in its loader. Minutes: installs MLflow into an environment of its own.

    .venv/bin/python tests/nightly_mlflow.py

Exits 0 when a run with a model of the server writes what the estimator itself predicts, a moved alias is a new run, what must be
refused is refused, and `mlflow.pyfunc` predicts with a bundle of ours as the estimator does. ``.venv-mlflow/`` stays for the next time.
"""

import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import batch
from tests.model_cases import fitted
from tests.run_cases import predicted, rows

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv-mlflow" / "bin"
CASES = (
    *("logistic", "three-classes", "forest-integers", "boosting-booleans", "neighbours", "network", "text"),
    *("threshold", "fitted-on-values", "ridge", "hist-boosting-numbers", "float32"),
)

JOB = """
name = "night"
root = "{place}/root"
model = "{model}"
[input]
uri = "{place}/in.csv"
id = "customer_id"
[output]
uri = "{place}/{out}.csv"
[run]
chunk_bytes = "1KiB"
engine = "{engine}"
workers = 2
[trust]
pickle_sha256 = [{pins}]
"""

LOG = """
import sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, sys.argv[1])
import mlflow
from mlflow.models import infer_signature
from tests.run_cases import FEATURES, estimator, rows
X = rows(200)[FEATURES]
ways = {"signed": ("skops", 1.0), "other": ("skops", 0.01), "pickled": ("cloudpickle", 1.0), "unsigned": ("skops", 1.0)}
for name, (form, strength) in ways.items():
    model = estimator(strength)
    more = {} if name == "unsigned" else {"signature": infer_signature(X, model.predict(X))}
    register = {"registered_model_name": {"signed": "tiny", "other": "tiny"}.get(name, name)}
    mlflow.sklearn.log_model(model, name=name, serialization_format=form, **more, **register)
mlflow.MlflowClient().set_registered_model_alias("tiny", "champion", "1")
"""

MOVE = """
import mlflow
mlflow.MlflowClient().set_registered_model_alias("tiny", "champion", "2")
"""

OURS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, numpy as np, pandas as pd
for folder, frame in json.load(open(sys.argv[1])):
    model = mlflow.pyfunc.load_model(folder)
    print(json.dumps(np.asarray(model.predict(pd.read_parquet(frame))).tolist()))
"""


def install() -> None:
    """MLflow by its name, with the scikit-learn that runs here: pickles are not to be read by another."""
    if not (BIN / "mlflow").exists():
        venv.create(BIN.parent, with_pip=True)
        own = [f"{name}=={version(name)}" for name in ("scikit-learn", "pandas")]
        subprocess.run([BIN / "python", "-m", "pip", "install", "-q", "mlflow", *own], check=True)


@contextmanager
def server(place: Path) -> Iterator[str]:
    """A server on loopback with an SQLite file and a folder of artifacts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--artifacts-destination",
        str(place / "artifacts"),
    ]
    with (place / "server.log").open("wb") as log:
        started = subprocess.Popen(
            [BIN / "mlflow", "server", *options, *stores], stdout=log, stderr=log, cwd=place, start_new_session=True
        )
        try:
            await_health(started, f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(started.pid, signal.SIGTERM)  # with its workers; the group is its own
            started.wait(30)


def await_health(started: "subprocess.Popen[bytes]", url: str) -> None:
    for _ in range(240):
        assert started.poll() is None, f"mlflow server ended with {started.returncode}"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise AssertionError("mlflow server did not come up within 2 minutes")


def inside(program: str, url: str, *arguments: str) -> str:
    """Run a program with MLflow's own Python; gives what it prints."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": url, "PYTHONWARNINGS": "ignore"}
    command = [BIN / "python", "-c", program, *arguments]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(place: Path, url: str, model: str, out: str = "out", engine: str = "inline", pins: str = "", code: int = 0):
    """`batch-predict run` as a user has it; gives the receipt, which a refused run has as well."""
    job = place / "night.toml"
    job.write_text(JOB.format(place=place, model=model, out=out, engine=engine, pins=pins), "utf-8")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": url}
    command = [sys.executable, "-m", "batch", "run", str(job), "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def check_output(place: Path, out: str) -> None:
    """Every row has the class and the probability that the estimator itself gives."""
    with (place / f"{out}.csv").open(newline="") as file:
        found = [(row["prediction"], float(row["probability"])) for row in csv.DictReader(file)]
    wanted = predicted(rows())
    assert [one for one, _ in found] == [one for one, _ in wanted]
    assert max(abs(mine - own) for (_, mine), (_, own) in zip(found, wanted, strict=True)) < 1e-12


def theirs_in_ours(place: Path, url: str) -> None:
    """Models of MLflow in runs of ours."""
    rows().to_csv(place / "in.csv", index=False)
    first = run(place, url, "models:/tiny@champion")
    check_output(place, "out")
    assert (first["models"][0]["name"], first["models"][0]["version"]) == ("tiny", 1), first["models"]
    assert run(place, url, "models:/tiny/1")["run_id"] == first["run_id"], "the number means what the alias means"
    run(place, url, "models:/tiny@champion", out="parallel", engine="processes")
    check_output(place, "parallel")
    inside(MOVE, url)
    moved = run(place, url, "models:/tiny@champion")
    assert moved["run_id"] != first["run_id"], "a moved alias is another run"
    assert moved["models"][0]["version"] == 2
    print(
        "a model of MLflow predicts as the estimator does, in this process and in workers; a moved alias is a new run"
    )


def refused(place: Path, url: str) -> None:
    """What must not run, and a pickle that may."""
    for model, said in (
        ("models:/unsigned/1", "has no signature"),
        ("models:/tiny@nobody", "alias nobody not found"),
        ("models:/nothing/1", "not found"),
        ("models:/pickled/1", "is not pinned"),
    ):
        error = run(place, url, model, out="refused", code=4)["error"]
        assert said in error["message"], error
        assert error["hint"], error
    (pickled,) = (place / "artifacts").rglob("model.pkl")
    digest = hashlib.sha256(pickled.read_bytes()).hexdigest()
    run(place, url, "models:/pickled/1", out="pickled", engine="processes", pins=f'"{digest}"')
    check_output(place, "pickled")
    print("without a signature, an alias or a pin it is refused; a pinned pickle predicts as the estimator does")


def ours_in_theirs(place: Path, url: str) -> None:
    """Bundles of ours, loaded by `mlflow.pyfunc` as they are."""
    asked, wanted = [], []
    for case in CASES:
        estimator, frame, _ = fitted(case)
        made = batch.register(estimator, case, frame, root=str(place / "root"))
        # MLflow's check of the signature knows no dtype "category": it takes such a column as text.
        texts = dict.fromkeys(frame.select_dtypes("category"), "str")
        frame.astype(texts).to_parquet(place / f"{case}.parquet")
        asked.append((made.uri, str(place / f"{case}.parquet")))
        wanted.append(estimator.predict(frame.to_numpy() if case == "fitted-on-values" else frame).tolist())
    (place / "asked.json").write_text(json.dumps(asked))
    found = [json.loads(line) for line in inside(OURS, url, str(place / "asked.json")).splitlines()]
    for case, theirs, own in zip(CASES, found, wanted, strict=True):
        exact = isinstance(own[0], str)
        assert theirs == own if exact else max(abs(a - b) for a, b in zip(theirs, own, strict=True)) < 1e-9, case
    print(f"mlflow.pyfunc predicts with {len(CASES)} bundles as the estimators do: {', '.join(CASES)}")


def main() -> int:
    """Install, start, log, run, compare."""
    install()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with server(place) as url:
            inside(LOG, url, str(ROOT))
            theirs_in_ours(place, url)
            ours_in_theirs(place, url)
            refused(place, url)
        error = run(place, url, "models:/tiny@champion", code=69)["error"]
        assert url in error["message"], error
    print(
        f"MLflow {inside('import mlflow; print(mlflow.__version__)', '').strip()} and batch-predict read each other's models"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
