"""Models of an MLflow server, played over HTTP, and models named by their file; `tests/nightly_mlflow.py` asks a real server."""

import base64
import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import OneClassSVM

from batch.errors import (
    BatchError,
    ModelChanged,
    ModelMissing,
    ModelNotTrusted,
    ModelRefused,
    PermissionDenied,
    StorageUnavailable,
    UsageError,
)
from batch.models import bundle, frames, mlflow, mlflow_server, mlmodel, quarantine, registry, trust
from batch.models.loaded import UNTIMED_SECONDS_PER_ROW
from batch.models.signature import SignatureColumn
from batch.storage import storage_for
from tests.model_cases import NUMBERS, WORDS, X, fitted
from tests.run_cases import Bench, estimator, predicted, register, rows

PROVE = quarantine.prove
API = "/api/2.0/mlflow"
COLUMNS = [
    {"type": "long", "name": "age", "required": True},
    {"type": "double", "name": "spend", "required": True},
    {"type": "string", "name": "product", "required": True},
]
NUMBER_COLUMNS = [{"type": kind, "name": name} for kind, name in zip(("long", "double", "float"), NUMBERS, strict=True)]


def description(columns: Any = COLUMNS, **flavour: Any) -> dict[str, Any]:
    """What MLflow 3 writes to MLmodel, as far as it matters."""
    sklearn = {
        "code": None,
        "pickled_model": "model.skops",
        "serialization_format": "skops",
        "sklearn_version": "1.9.1",
    }
    return {
        "flavors": {"python_function": {"python_version": "3.11.7"}, "sklearn": {**sklearn, **flavour}},
        "metadata": {"note": "any text:\n\n  'even' this"},
        "signature": {"inputs": json.dumps(columns), "outputs": '[{"type": "string"}]', "params": None},
    }


def text(described: dict[str, Any]) -> bytes:
    return yaml.safe_dump(described, default_flow_style=False).encode()


class Played:
    """An MLflow server: answers as version 3.17 does, unless told to answer otherwise."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.versions: dict[tuple[str, str], str] = {}
        """(name, version) -> folder of its artifacts."""
        self.aliases: dict[tuple[str, str], str] = {}
        self.files: dict[str, bytes] = {}
        """By path under the artifact proxy."""
        self.otherwise: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        """Path -> status, body and headers of every answer."""
        self.asked: list[tuple[str, str]] = []
        """Path and authorization of each request."""

    def add(self, model: Any, version: str = "1", described: dict[str, Any] | None = None, **files: bytes) -> None:
        """Log and register a version of ``tiny``; `model`: an estimator for skops, or the bytes of its file."""
        folder, described = f"0/models/m-{version}", described or description()
        body = model if isinstance(model, bytes) else trust.dump_skops(model)
        self.versions["tiny", version] = f"mlflow-artifacts:/{folder}"
        self.files[f"{folder}/MLmodel"] = text(described)
        self.files[f"{folder}/{described['flavors']['sklearn']['pickled_model']}"] = body

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if path in self.otherwise:
            return self.otherwise[path]
        name, proxy = query.get("name", ""), "/api/2.0/mlflow-artifacts/artifacts"
        if path == f"{API}/registered-models/alias":
            version = self.aliases.get((name, query["alias"]))
            return _version(name, version) if version else _error(400, "INVALID_PARAMETER_VALUE", "no such alias")
        if path == f"{API}/model-versions/get" and (name, query["version"]) in self.versions:
            return _version(name, query["version"])
        if path == f"{API}/model-versions/get-download-uri":
            return _json({"artifact_uri": self.versions[name, query["version"]]})
        if path == proxy:
            inside = {key: len(body) for key, body in self.files.items() if key.startswith(query["path"] + "/")}
            return _json({"files": [{"path": key.split("/")[-1], "file_size": size} for key, size in inside.items()]})
        if path.startswith(f"{proxy}/") and path[len(proxy) + 1 :] in self.files:
            return 200, self.files[path[len(proxy) + 1 :]], {}
        if path == "/model-versions/get-artifact":
            return 200, self.files[f"0/models/m-{query['version']}/{query['path']}"], {}
        return _error(404, "RESOURCE_DOES_NOT_EXIST", "not found")

    def fetched(self, file: str) -> int:
        return sum(path.endswith(f"/{file}") for path, _ in self.asked)


def _json(document: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(document).encode(), {"Content-Type": "application/json"}


def _error(status: int, code: str, message: str) -> tuple[int, bytes, dict[str, str]]:
    return _json({"error_code": code, "message": message}, status)


def _version(name: str, version: str, status: str = "READY") -> tuple[int, bytes, dict[str, str]]:
    return _json({"model_version": {"name": name, "version": version, "source": "models:/m-1", "status": status}})


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    """A server that is set, with model ``tiny`` in version 1, the champion."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            server.asked.append((unquote(parts.path), self.headers.get("Authorization", "")))
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, body, headers = server.answer(unquote(parts.path), query)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = Played(f"http://127.0.0.1:{listening.server_address[1]}")
        server.add(estimator())
        server.aliases["tiny", "champion"] = "1"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url + "/")
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        listening.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of the caller, no pauses, no process for each trial, and nothing known from another test."""
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setattr(mlflow_server, "PAUSES_SECONDS", (0, 0))
    monkeypatch.setattr(quarantine, "prove", lambda *_, **__: None)
    forget()


def forget() -> None:
    """As in a new process."""
    mlflow._learnt.clear()


def resolve(reference: str = "models:/tiny@champion", root: str = "", **options: Any) -> bundle.ResolvedModel:
    return bundle.resolve(reference, root, **options)


def refusal(kind: type[BatchError], reference: str = "models:/tiny@champion", **options: Any) -> BatchError:
    """The error of resolving; it has a hint."""
    with pytest.raises(kind) as caught:
        resolve(reference, **options)
    assert caught.value.hint
    return caught.value


def test_alias_and_number_mean_one_version(played: Played) -> None:
    """Both are the same model, and so is the address that a plan records; it predicts what the estimator predicts."""
    by_alias, by_number = resolve(), resolve("models:/tiny/1")
    assert (by_alias.name, by_alias.version, by_alias.sha256) == ("tiny", 1, by_number.sha256)
    assert by_alias.uri == f"{played.url}/#/models/tiny/versions/1"
    assert resolve(by_alias.uri).sha256 == by_alias.sha256
    assert by_alias.outputs.columns == (("prediction", "string"), ("probability", "double"))
    model = bundle.load(by_alias)
    found = model.predict(frames.from_frame(rows(), by_alias.signature))
    assert found["prediction"].to_pylist() == [label for label, _ in predicted(rows())]
    np.testing.assert_allclose(found["probability"], [score for _, score in predicted(rows())], rtol=1e-12)
    assert "no golden rows" in model.warnings[0]
    assert model.golden is None


def test_a_run_writes_what_the_estimator_predicts(played: Played, bench: Bench) -> None:
    """The receipt names the version; another version under the alias is another run."""
    bench.model = "models:/tiny@champion"
    first = bench.run("in.csv", "out.csv", run__engine="inline")
    assert [row["prediction"] for row in bench.records("out.csv")] == [label for label, _ in predicted(rows())]
    told = first.document["models"][0]
    assert (told["uri_given"], told["name"], told["version"]) == ("models:/tiny@champion", "tiny", 1)
    played.add(estimator(0.01), "2")
    played.aliases["tiny", "champion"] = "2"
    assert bench.run("in.csv", "out.csv", run__engine="inline").run_id != first.run_id


def test_a_model_is_fetched_to_be_known_once(played: Played, tmp_path: Path) -> None:
    """Loading it for a run records what was found out: the next process only asks. A check records nothing."""
    root = str(tmp_path)
    bundle.load(resolve(root=root), record=False)
    assert list(tmp_path.rglob("*")) == []
    first = resolve(root=root)
    bundle.load(first)
    forget()
    played.asked.clear()
    assert resolve(root=root) == first
    assert (len(played.asked), played.fetched("model.skops")) == (4, 0)


@pytest.mark.slow
def test_a_model_is_tried_apart_and_loaded_by_workers(
    played: Played, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own before this one loads it; workers load what was resolved, and resolve nothing."""
    monkeypatch.setattr(quarantine, "prove", PROVE)
    played.add(pickle.dumps(estimator()), "2", description(pickled_model="model.pkl", serialization_format="pickle"))
    assert "pickle_sha256" in refusal(ModelNotTrusted, "models:/tiny/2").hint
    bench.model = "models:/tiny@champion"
    played.asked.clear()
    bench.run("in.csv", "out.csv", run__engine="processes", run__workers=2, run__chunk_bytes="1KiB")
    assert [row["prediction"] for row in bench.records("out.csv")] == [label for label, _ in predicted(rows())]
    assert played.fetched("alias") == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"format": 1, "files": {}}', b'{"format": 9}'])
def test_a_damaged_record_is_found_out_again(played: Played, tmp_path: Path, body: bytes) -> None:
    """And mended when the model is loaded."""
    first = resolve(root=str(tmp_path))
    bundle.load(first)
    (record,) = (tmp_path / "probe" / "mlflow").iterdir()
    whole = record.read_bytes()
    record.write_bytes(body)
    forget()
    bundle.load(resolve(root=str(tmp_path)))
    assert record.read_bytes() == whole


def test_other_bytes_and_other_versions_are_other_models(played: Played) -> None:
    """The run id is made of name, version and bytes."""
    body = trust.dump_skops(estimator())
    played.add(body)
    found = {resolve().sha256}
    played.add(body, "2")
    found.add(resolve("models:/tiny/2").sha256)
    played.add(estimator(0.01), "1")
    forget()
    found.add(resolve().sha256)
    assert len(found) == 3


def test_a_version_that_was_changed_is_refused(played: Played) -> None:
    """Bytes that are not those it was resolved with are never loaded."""
    resolved = resolve()
    played.add(estimator(0.01))
    with pytest.raises(ModelChanged, match="has sha256"):
        bundle.load(resolved)


def test_a_pickle_needs_its_pin(played: Played) -> None:
    """To be resolved, because only loading tells what it returns, and to be loaded."""
    body = pickle.dumps(estimator())
    played.add(body, described=description(pickled_model="model.pkl", serialization_format="cloudpickle"))
    pins = [hashlib.sha256(body).hexdigest()]
    assert pins[0] in refusal(ModelNotTrusted).hint
    resolved = resolve(pickle_sha256=pins)
    assert bundle.load(resolved, pickle_sha256=pins).outputs.classes == ("no", "yes")
    with pytest.raises(ModelNotTrusted):
        bundle.load(resolved)


def test_what_skops_does_not_trust_is_refused(played: Played) -> None:
    """Types are judged by our list, whatever MLmodel says."""
    from skops.io import dumps

    described = description(skops_trusted_types=["sklearn.svm._classes.Strange", "pathlib.PosixPath"])
    played.add(dumps({"model": Path()}), described=described)
    assert "pathlib" in refusal(ModelNotTrusted).message


@pytest.mark.parametrize(
    ("case", "columns"),
    [
        ("forest-integers", (("prediction", "long"), ("probability", "double"))),
        (
            "neighbours",
            (("prediction", "string"), *((f"probability_{one}", "double") for one in ("high", "low", "middle"))),
        ),
        ("no-probabilities", (("prediction", "string"),)),
        ("fitted-on-values", (("prediction", "long"), ("probability", "double"))),
        ("hist-boosting-numbers", (("prediction", "double"),)),
    ],
)
def test_outputs_are_those_of_registration(played: Played, case: str, columns: Any) -> None:
    """What a model returns is found out by calling it; the prediction is always its own."""
    model, frame, _ = fitted(case)
    played.add(model, described=description(NUMBER_COLUMNS))
    resolved = resolve()
    assert (resolved.outputs.columns, resolved.outputs.decision) == (columns, "predict")
    table = frames.from_frame(frame, resolved.signature)
    expected = model.predict(frame.to_numpy() if case == "fitted-on-values" else frame)
    np.testing.assert_array_equal(bundle.load(resolved).predict(table)["prediction"].to_pylist(), expected)


def test_a_model_that_takes_no_plain_row_is_judged_by_itself(played: Played) -> None:
    """Its classes and probabilities, for a classifier; the signature's type, for a regressor; the time is guessed."""
    wrong = [
        {"type": "string", "name": name} for name in NUMBERS
    ]  # as a column of dates or codes would be: no "" in it
    played.add(LogisticRegression(max_iter=500).fit(X[NUMBERS], WORDS), described=description(wrong))
    resolved = resolve()
    assert resolved.outputs.columns == (("prediction", "string"), ("probability", "double"))
    assert bundle.load(resolved).seconds_per_row() == UNTIMED_SECONDS_PER_ROW
    described = description(wrong)
    described["signature"]["outputs"] = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]'
    played.add(Ridge().fit(X[NUMBERS], X["spend"]), described=described)
    assert resolve().outputs.columns == (("prediction", "float"),)


def test_the_time_of_a_row_is_measured_on_plain_rows(played: Played) -> None:
    """There are no golden ones."""
    assert 0 < bundle.load(resolve()).seconds_per_row() < 0.01


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: OneClassSVM().fit(X[["spend"]]), "detects outliers"),
        (lambda: trust.dump_skops({"a": 1}), "holds a dict"),
        (lambda: trust.dump_skops([1]), "holds a list"),
        (lambda: b"no zip", "cannot be read"),
    ],
)
def test_what_is_no_model_for_us_is_refused(played: Played, model: Any, message: str) -> None:
    """With one sentence."""
    played.add(model(), described=description([{"type": "double", "name": "spend"}]))
    with pytest.raises(ModelRefused, match=message):
        resolve()


def bad(**changes: Any) -> dict[str, Any]:
    return {**description(), **changes}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (bad(signature=None), "has no signature"),
        (bad(signature={"inputs": None}), "has no signature"),
        (bad(signature={"inputs": "[not json"}), "cannot be read"),
        (bad(signature={"inputs": '["age"]'}), "cannot be read"),
        (bad(signature="text"), "cannot be read"),
        (
            description([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]),
            "without column names",
        ),
        (description([{"type": "array", "name": "tags", "items": {"type": "string"}}]), "has the type 'array'"),
        (description([COLUMNS[0], COLUMNS[0]]), "two columns of the signature are named 'age'"),
        (description(code="code"), "brings Python code of its own"),
        (description(serialization_format="joblib"), "serialization format 'joblib'"),
        (description(pickled_model="../../secret"), "cannot be read"),
        (bad(flavors={"xgboost": {"data": "model.ubj"}, "sklearn": "yes"}), "cannot be read"),
    ],
)
def test_what_mlmodel_must_say(played: Played, described: dict[str, Any], message: str) -> None:
    """A model that cannot be fed from a file is refused before its own file is fetched."""
    played.add(estimator())
    played.files["0/models/m-1/MLmodel"] = text(described)
    assert message in refusal(ModelRefused).message
    assert played.fetched("model.skops") == 0


DEEP = b"flavors:\n" + b"".join(b" " * depth + b"a:\n" for depth in range(1, 900))
NO_MLMODELS = {
    "empty": b"",
    "utf-16": b"\xff\xfe",
    "anchor": b"flavors:\n  sklearn: &a\n    code: *a\n",
    "block": b"flavors:\n  sklearn: |\n   x\n",
    "flow": b"flavors: {\n",
    "list": b"- a\n- b\n",
    "cut": b"flavors:\n  sklearn:\n    code: 'a\n",
    "escape": b'flavors:\n  a: "\\q \\x1"\n',
    "deep": DEEP,
    "large": b"x" * (mlmodel.MAX_BYTES + 1),
}


@pytest.mark.parametrize("body", NO_MLMODELS.values(), ids=list(NO_MLMODELS))
def test_mlmodel_that_is_something_else(played: Played, body: bytes) -> None:
    """No traceback, whatever stands in it."""
    played.files["0/models/m-1/MLmodel"] = body
    with pytest.raises(ModelRefused, match="MLmodel"):
        resolve()


def test_a_model_of_another_library_is_named(played: Played) -> None:
    """The flavours it does have are told."""
    played.files["0/models/m-1/MLmodel"] = text(bad(flavors={"pytorch": {"a": 1}, "python_function": {"b": None}}))
    assert "no scikit-learn flavour, only python_function, pytorch" in refusal(ModelRefused).message


SOME_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x85\u2028\u2029"), max_size=200)


@given(name=SOME_TEXT, spaced=st.text(" ab'\"\\:#-é", max_size=200), wide=st.booleans())
def test_texts_are_read_as_yaml_has_them(name: str, spaced: str, wide: bool) -> None:
    """However PyYAML quotes and folds them, also beside sections that are not read."""
    wanted = {
        "flavors": {"a": name, "b": [name, None]},
        "signature": {"inputs": json.dumps([name, spaced]), "c": spaced},
    }
    written = yaml.safe_dump({**wanted, "metadata": {"x": f"{name}\n\n{spaced}"}}, width=40 if wide else 80)
    read = mlmodel._sections(written, ("flavors", "signature"))
    assert read == {**wanted, "flavors": {**wanted["flavors"]}}


def test_columns_take_the_types_of_mlflow(played: Played) -> None:
    """`required` as MLflow has it now, and as it had it; a column of each type."""
    specs = [{"type": kind, "name": kind} for kind in mlmodel.DTYPES]
    specs[0]["required"], specs[1]["optional"] = False, True
    read = mlmodel.read(text(description(specs)), "MLmodel")
    assert [column.required for column in read.signature] == [False, False, *[True] * 6]
    assert read.signature[1] == SignatureColumn("integer", "integer", False, "int32")
    assert read.libraries == {"python": "3.11.7", "scikit-learn": "1.9.1"}


def test_our_own_mlmodel_can_be_read(model: str) -> None:
    """The file in a bundle of ours has the columns of its card."""
    read = mlmodel.read(Path(model, "MLmodel").read_bytes(), "MLmodel")
    assert [column.name for column in read.signature] == [column.name for column in bundle.resolve(model, "").signature]
    assert (read.file, read.is_skops) == (bundle.SKOPS, True)


HTML = (200, b"<html>please log in</html>", {"Content-Type": "text/html"})
VERSION = f"{API}/registered-models/alias"
FOLDER = f"{API}/model-versions/get-download-uri"


@pytest.mark.parametrize(
    ("path", "answer", "kind", "message"),
    [
        (VERSION, _error(401, "UNAUTHENTICATED", "who?"), PermissionDenied, "401"),
        (VERSION, _error(403, "PERMISSION_DENIED", "no"), PermissionDenied, "403"),
        (VERSION, (404, b"<html>nothing here</html>", {}), StorageUnavailable, "404"),
        (VERSION, _error(404, "RESOURCE_DOES_NOT_EXIST", "gone\nand more"), ModelMissing, "gone\\nand more"),
        (VERSION, (302, b"", {"Location": "file:///etc/passwd"}), StorageUnavailable, "302"),
        (VERSION, HTML, StorageUnavailable, "JSON"),
        (VERSION, _json([]), StorageUnavailable, "JSON"),
        (VERSION, _json({}), StorageUnavailable, "does not tell the version"),
        (VERSION, _json({"model_version": {"version": "new"}}), StorageUnavailable, "does not tell the version"),
        (VERSION, _version("tiny", "1", "PENDING_REGISTRATION"), ModelRefused, "PENDING_REGISTRATION, not READY"),
        (FOLDER, _json({}), StorageUnavailable, "where the files"),
        (FOLDER, _json({"artifact_uri": "gs://bucket/model"}), ModelRefused, "cannot be fetched"),
        (FOLDER, _json({"artifact_uri": "mlflow-artifacts://elsewhere/0/models"}), ModelRefused, "cannot be fetched"),
        (FOLDER, _json({"artifact_uri": "mlflow-artifacts:/0/models/m-9"}), ModelMissing, "no file MLmodel"),
    ],
)
def test_bad_answers(played: Played, path: str, answer: Any, kind: type[BatchError], message: str) -> None:
    """Each is one sentence that names the server, a hint, and an exit code: 4, 69 or 77."""
    played.otherwise[path] = answer
    error = refusal(kind)
    assert type(error) is kind
    assert message in error.message
    assert played.url in error.message


def test_a_server_that_is_busy_is_asked_again(played: Played) -> None:
    """Three times in all; then it is unavailable, and so is one that sends less than it said."""
    played.otherwise[VERSION] = (503, b"later", {})
    with pytest.raises(StorageUnavailable, match="answered 503"):
        resolve()
    assert len(played.asked) == 3
    played.otherwise[VERSION] = (200, b"{}", {"Content-Length": "999"})
    with pytest.raises(StorageUnavailable, match=r"2 of 999 bytes|does not answer"):
        resolve()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has its address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9/api/2.0/mlflow" in refusal(StorageUnavailable).message


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "databricks", "./mlruns", "http://", "http://[::1", "http://h:x"]
)
def test_only_a_server_can_be_asked(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """MLflow's other stores need its own code."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "MLFLOW_TRACKING_URI" in refusal(UsageError).message


@pytest.mark.parametrize("reference", ["models:/tiny", "models:/tiny/", "models:/tiny/Production", "models:/a/b/3"])
def test_references_keep_their_form(played: Played, reference: str) -> None:
    """Stages are no references, as in MLflow itself by now."""
    refusal(UsageError, reference)
    assert played.asked == []


def test_addresses_are_of_the_server_that_is_set(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of another server asks nobody; credentials go to nobody else."""
    resolved = resolve()
    refusal(UsageError, "http://elsewhere/#/models/tiny/versions/1")
    refusal(UsageError, f"{played.url}/#/experiments/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    with pytest.raises(StorageUnavailable, match="is not on the MLflow server http://elsewhere"):
        bundle.load(resolved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLFLOW_TRACKING_URI is empty" in refusal(UsageError, resolved.uri).message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"USERNAME": "ann", "PASSWORD": "s:é"}, "Basic " + base64.b64encode("ann:s:é".encode()).decode()),
        ({"TOKEN": "abc"}, "Bearer abc"),
        ({"USERNAME": "ann", "PASSWORD": "x", "TOKEN": "abc"}, "Basic " + base64.b64encode(b"ann:x").decode()),
    ],
)
def test_credentials(played: Played, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str) -> None:
    """With every request, also for files, in MLflow's own order of precedence."""
    for key, value in settings.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", value)
    bundle.load(resolve())
    assert {authorization for _, authorization in played.asked} == {expected}


def test_credentials_in_the_uri_are_used_and_never_told(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in an error nor in what a plan records."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", played.url.replace("//", "//ann:secret%21@"))
    resolved = resolve()
    assert played.asked[0][1] == "Basic " + base64.b64encode(b"ann:secret!").decode()
    played.otherwise[VERSION] = (500, b"", {})
    assert "secret" not in str(resolved) + refusal_without_hint().message
    assert "ann" not in repr(mlflow_server.Server.from_environment())


def refusal_without_hint() -> BatchError:
    with pytest.raises(BatchError) as caught:
        resolve()
    return caught.value


def test_credentials_do_not_follow_a_redirect(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host could be anybody's."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    played.otherwise[VERSION] = (302, b"", {"Location": f"{played.url}/login"})
    played.otherwise["/login"] = HTML
    with pytest.raises(StorageUnavailable):
        resolve()
    assert ("/login", "Bearer abc") not in played.asked
    assert ("/login", "") in played.asked


def test_files_on_the_servers_own_disk_come_through_it(played: Played) -> None:
    """A server without the artifact proxy tells a path of its machine, whatever stands there on this one."""
    played.versions["tiny", "1"] = "/srv/mlruns/0/models/m-1/artifacts"
    assert bundle.load(resolve()).outputs.classes == ("no", "yes")
    assert played.fetched("get-artifact") == 4


def test_files_in_s3_are_read_there(played: Played, moto_bucket: str) -> None:
    """With the credentials of this environment; what is not there is missing."""
    played.versions["tiny", "1"] = f"{moto_bucket}/mlflow/m-1"
    refusal(ModelMissing)
    for name in ("MLmodel", "model.skops"):
        uri, body = f"{moto_bucket}/mlflow/m-1/{name}", played.files[f"0/models/m-1/{name}"]
        storage_for(uri).replace(uri, [body], len(body))
    first = resolve()
    assert bundle.load(first).outputs.classes == ("no", "yes")
    assert (played.fetched("MLmodel"), played.fetched("get-artifact")) == (0, 0)
    other = trust.dump_skops(estimator(0.01))
    storage_for(uri).replace(uri, [other], len(other))
    assert resolve().sha256 != first.sha256, "the ETag tells"


def test_names_may_hold_what_mlflow_allows(played: Played) -> None:
    """Blanks, capitals and dots survive the way into an address and back."""
    played.versions["Prod.Tiny é%", "1"] = played.versions["tiny", "1"]
    resolved = resolve("models:/Prod.Tiny é%/1")
    assert resolve(resolved.uri).name == resolved.name == "Prod.Tiny é%"


def test_the_registry_under_the_root_stays_there(played: Played, tmp_path: Path) -> None:
    """`resolve_bundle` asks no server; without the variable nor does `resolve`."""
    register(str(tmp_path))
    assert bundle.resolve_bundle("models:/tiny@champion", str(tmp_path)).registered
    assert played.asked == []
    assert not resolve(root=str(tmp_path)).registered


def test_a_model_file_means_its_bundle(model: str, tmp_path: Path) -> None:
    """`model.json` beside it says what it is."""
    by_file, by_folder = bundle.resolve(f"{model}model.skops", ""), bundle.resolve(model, "")
    assert (by_file.uri, by_file.sha256) == (by_folder.uri, by_folder.sha256)
    assert bundle.load(by_file).outputs == by_folder.outputs


@pytest.mark.parametrize("name", ["mine.skops", "mine.joblib", "mine.pkl"])
def test_a_model_file_without_a_card_is_missing(tmp_path: Path, name: str) -> None:
    """The hint is the command that registers it."""
    (tmp_path / name).write_bytes(b"")
    error = refusal(ModelMissing, str(tmp_path / name))
    assert f"model.json beside {tmp_path / name}" in error.message
    assert f"models register NAME {name}" in error.hint


def test_a_card_of_another_file_is_refused(model: str) -> None:
    """Both names are told."""
    assert "is about model.skops, not about other.joblib" in refusal(ModelRefused, f"{model}other.joblib").message


def test_a_model_file_in_a_bucket(model: str, moto_bucket: str) -> None:
    """The same by its key."""
    for path in Path(model).iterdir():
        uri = f"{moto_bucket}/some/where/{path.name}"
        storage_for(uri).replace(uri, [path.read_bytes()], -1)
    assert bundle.resolve(f"{moto_bucket}/some/where/model.skops", "").uri == f"{moto_bucket}/some/where/"
    assert isinstance(refusal(ModelMissing, f"{moto_bucket}/else/where.skops"), ModelMissing)


def test_a_model_file_may_have_any_name(model: str, tmp_path: Path) -> None:
    """Where its card names it."""
    card = json.loads(Path(model, "model.json").read_text())
    card["model_file"], card["files"]["mine.skops"] = "mine.skops", card["files"].pop("model.skops")
    for path in Path(model).iterdir():
        name = "mine.skops" if path.name == "model.skops" else path.name
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert bundle.load(bundle.resolve(f"{tmp_path}/mine.skops", "")).outputs.classes == ("no", "yes")


def test_commands_about_the_registry_under_the_root_ask_no_server(played: Played, tmp_path: Path) -> None:
    """Aliases of MLflow are moved with MLflow."""
    register(str(tmp_path))
    registry.promote(str(tmp_path), "tiny", 1, "other")
    assert registry.describe(str(tmp_path), "tiny")["uri"] == f"{tmp_path}/models/tiny/1/"
    assert played.asked == []


def test_a_pinned_pickle_runs(played: Played, bench: Bench) -> None:
    """The pin of the job is known when its model is resolved."""
    body = pickle.dumps(estimator())
    played.add(body, described=description(pickled_model="model.pkl", serialization_format="cloudpickle"))
    bench.model = "models:/tiny@champion"
    with pytest.raises(ModelNotTrusted):
        bench.run("in.csv", "out.csv", run__engine="inline")
    pins = f'[trust]\npickle_sha256 = ["{hashlib.sha256(body).hexdigest()}"]\n'
    bench.run("in.csv", "out.csv", pins, run__engine="inline")
    assert [row["prediction"] for row in bench.records("out.csv")] == [label for label, _ in predicted(rows())]
