"""Models that an older scikit-learn has saved, by fact. A minute or two: installs scikit-learn 1.4 into an environment of its own.

    .venv/bin/python tests/nightly_skew.py

The older one registers models with this package and so records what it predicts. Exits 0 when the scikit-learn of today scores with
those whose golden rows agree and says which version saved them, and refuses with exit code 4 one that predicts something else and
one that does not run. ``.venv-old/`` stays for the next time.
"""

import json
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.run_cases import rows

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-old" / "bin" / "python"
# 1.4.2 is the oldest that runs with the numpy that pyarrow of today needs.
PACKAGES = ("scikit-learn==1.4.2", "numpy>=2", "pandas<3", "skops", "pyarrow", "boto3", "pydantic")

JOB = """
name = "skew"
root = "{place}/root"
model = "models:/{model}/1"
[input]
uri = "{place}/in.csv"
id = "customer_id"
[output]
uri = "{place}/{model}.csv"
"""

REGISTER = """
import sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, sys.argv[1])
import numpy as np
from sklearn.ensemble import AdaBoostClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import batch
from tests.run_cases import rows
X = rows(200)[["age", "spend"]]
y = np.where(X["age"] / 50 + X["spend"] > 1.2, "yes", "no")
models = {
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
    "forest": RandomForestClassifier(10, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=10, random_state=0),
    "differs": AdaBoostClassifier(n_estimators=3, random_state=0),
    "fails": make_pipeline(SimpleImputer(), LogisticRegression()),
}
for name, model in models.items():
    batch.register(model.fit(X, y), name, X, root=sys.argv[2])
    answers = np.round(model.predict_proba(rows()[["age", "spend"]])[:, 1], 12).tolist()
    print(name, answers)
"""

AGREE = ("pipeline", "forest", "boosting")
REFUSED = {
    # AdaBoost weighed its trees by their probabilities then (SAMME.R) and by their votes now.
    "differs": ("golden row 1 of 50 gives probability = ", "scikit-learn {then} then, {now} now"),
    "fails": ("saved with scikit-learn {then}, running {now}", "_fill_dtype"),
}


def install() -> str:
    """An environment with the older scikit-learn, by its name; gives the version."""
    if not PYTHON.exists():
        venv.create(PYTHON.parents[1], with_pip=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    asked = [PYTHON, "-c", "import sklearn; print(sklearn.__version__)"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def register(place: Path) -> dict[str, list[float]]:
    """Let the older one fit, register and predict: the probability of each row of the input, by model."""
    asked = [PYTHON, "-c", REGISTER, str(ROOT), str(place / "root")]
    done = subprocess.run(asked, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        name: json.loads(answers) for name, _, answers in (line.partition(" ") for line in done.stdout.splitlines())
    }


def run(place: Path, model: str) -> tuple[int, str]:
    """`batch-predict run` as a user has it: exit code and what it says."""
    job = place / "skew.toml"
    job.write_text(JOB.format(place=place, model=model), "utf-8")
    command = [sys.executable, "-m", "batch", "run", str(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def check_agrees(place: Path, model: str, then: list[float], versions: dict[str, str]) -> None:
    """It scores every row as the older one did, and the run says who saved it."""
    code, said = run(place, model)
    assert code == 0, said
    lines = (place / f"{model}.csv").read_text().splitlines()
    column = lines[0].split(",").index("probability")
    found = [float(line.split(",")[column]) for line in lines[1:]]
    assert max(abs(one - other) for one, other in zip(found, then, strict=True)) < 1e-9
    assert "saved with scikit-learn {then}, running {now}; the golden rows agree".format(**versions) in said, said


def main() -> int:
    """Install, register with the older, score with ours."""
    versions = {"then": install(), "now": version("scikit-learn")}
    assert versions["then"] != versions["now"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        then = register(place)
        table = rows()[["customer_id", "age", "spend"]]
        (place / "in.csv").write_text(table.to_csv(index=False), "utf-8")
        for model in AGREE:
            check_agrees(place, model, then[model], versions)
            print(f"{model}: every row as scikit-learn {versions['then']} has it, with a warning")
        for model, wanted in REFUSED.items():
            code, said = run(place, model)
            assert code == 4, (code, said)
            assert all(one.format(**versions) in said for one in wanted), said
            assert not (place / f"{model}.csv").exists()
            print(f"{model}: {next(line for line in said.splitlines() if 'error: ' in line)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
