"""Train the model behind ``weekly_flights.toml``: the chance that a departing flight arrives 15 minutes late or more.

``python jobs/train_flights.py [--root URI] [--data FOLDER]``, after ``make data``. Trained on January to June 2013; the metrics that are
registered come from July, which the model has not seen. Rows without a label (cancelled or diverted) are left out of both.

The features are what is known at departure: the calendar, the schedule, the delay so far, carrier, route and distance. So
``dep_delay`` is never missing in training, the signature requires it, and a cancelled flight in a weekly file is a reject
(``null``) and not a guess.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

import batch

HERE = Path(__file__).parent
CATEGORIES = ["carrier", "origin", "dest"]
FEATURES = [*CATEGORIES, "month", "weekday", "sched_dep_time", "dep_delay", "distance"]
TRAINING_MONTHS = range(1, 7)
TEST_MONTH = 7


def main(argv: Sequence[str] | None = None) -> int:
    """Train, register, and print the version and its metrics on July; returns 0."""
    parser = argparse.ArgumentParser(description="Train and register the late-arrival model.")
    parser.add_argument("--root", default=os.environ.get("BATCH_ROOT") or str(HERE.parent / "data" / "root"))
    parser.add_argument("--data", type=Path, default=HERE.parent / "data", help="where `make data` put the weeks")
    options = parser.parse_args(argv)
    flights = labelled_flights(options.data)
    train, test = flights[flights["month"].isin(TRAINING_MONTHS)], flights[flights["month"] == TEST_MONTH]
    model = pipeline().fit(train[FEATURES], train["late"])
    metrics = held_out_metrics(model, test)
    version = batch.register(
        model, "flights", train[FEATURES], train["late"], root=options.root, alias="champion", metrics=metrics
    )
    print(f"models:/flights/{version.version} is the champion:", *(f"{k} {v:.3f}" for k, v in metrics.items()))
    return 0


def labelled_flights(data: Path) -> pd.DataFrame:
    """The features, `late` and `month` of all flights that arrived. Raises `SystemExit` where `make data` has not run."""
    weeks = sorted((data / "flights").glob("*.csv"))
    if not weeks:
        raise SystemExit(f"no flights in {data / 'flights'}: run `make data` first")
    read = [
        pd.read_csv(week, usecols=["flight_id", *FEATURES]).merge(
            pd.read_csv(data / "flights_labels" / week.name), on="flight_id", validate="one_to_one"
        )
        for week in weeks
    ]
    arrived = pd.concat(read, ignore_index=True).dropna(subset=["late"])
    return arrived.astype({"late": int, "dep_delay": int})


def pipeline() -> Pipeline:
    """Raw columns in, probabilities out. A carrier or airport that was not there in training counts as missing (-1)."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("categories", encoder, CATEGORIES)], remainder="passthrough")
    boosting = HistGradientBoostingClassifier(
        categorical_features=list(range(len(CATEGORIES))), max_iter=150, early_stopping=False, random_state=0
    )
    return Pipeline([("columns", columns), ("model", boosting)])


def held_out_metrics(model: Pipeline, test: pd.DataFrame) -> dict[str, float]:
    """Accuracy, area under the ROC curve and Brier score (0 is perfect) on flights the model has not seen."""
    probability = model.predict_proba(test[FEATURES])[:, 1]
    return {
        "accuracy": float(accuracy_score(test["late"], probability >= 0.5)),
        "roc_auc": float(roc_auc_score(test["late"], probability)),
        "brier": float(brier_score_loss(test["late"], probability)),
    }


if __name__ == "__main__":
    sys.exit(main())
