"""Train the model behind ``weekly_satisfaction.toml`` on the labelled sample customers and register it as the champion.

``python jobs/train_satisfaction.py [--root URI] [--seed N]``. With ``--labels FILE`` it trains again, as the challenger: on the sample
customers and on the rows that runs have captured since (``[monitor] capture_rows``) whose labels have arrived by now (a CSV or
Parquet file with ``customer_id`` and ``satisfied``). A successive-halving search picks the hyperparameters on the training
part; the metrics that are registered with the model come from a fifth of the customers that the search never saw.
Registering again makes a new version; the alias then names that one. Making a challenger the champion stays a person's command:
``batch-predict models promote satisfaction VERSION --to champion --if-better roc_auc``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # makes the next import possible
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score
from sklearn.model_selection import HalvingRandomSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

import batch

HERE = Path(__file__).parent
LABELLED = HERE.parent / "sample_data" / "customers_labelled.parquet"
LABEL = "satisfied"
CATEGORIES = ["product", "region"]
FEATURES = [
    *CATEGORIES,
    "tenure_months",
    "orders_last_90d",
    "returns",
    "support_tickets",
    "avg_delivery_days",
    "discount_share",
    "last_rating",
    "has_app",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, register, and print the version and its held-out metrics; returns 0."""
    parser = argparse.ArgumentParser(description="Train and register the satisfaction model.")
    parser.add_argument("--root", default=os.environ.get("BATCH_ROOT") or str(HERE.parent / "data" / "root"))
    parser.add_argument("--seed", type=int, default=0, help="of the hold-out split and of the search")
    parser.add_argument("--labels", help="of captured customers: train again with them, and register the challenger")
    parser.add_argument("--job", default="weekly-satisfaction", help="whose captured rows to use")
    options = parser.parse_args(argv)
    customers, alias = pd.read_parquet(LABELLED), "champion"
    if options.labels:
        late, alias = with_labels(options.job, options.root, options.labels), "challenger"
        print(f"{len(late)} captured customers have a label by now")
        customers = pd.concat([customers[[*FEATURES, LABEL]], late], ignore_index=True)
    X, y = customers[FEATURES], customers[LABEL].astype(int)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=options.seed)
    model = search(X_train, y_train, options.seed)
    metrics = held_out_metrics(model, X_test, y_test)
    version = batch.register(model, "satisfaction", X_train, y_train, root=options.root, alias=alias, metrics=metrics)
    print(f"models:/satisfaction/{version.version} is the {alias}:", *(f"{k} {v:.3f}" for k, v in metrics.items()))
    return 0


def with_labels(job: str, root: str, labels: str) -> pd.DataFrame:
    """The captured rows whose labels are known by now, each customer once and as last seen."""
    known = pd.read_csv(labels) if labels.endswith(".csv") else pd.read_parquet(labels)
    rows = batch.captures(job, root=root).drop_duplicates("customer_id", keep="last")
    return rows.merge(known[["customer_id", LABEL]], on="customer_id")[[*FEATURES, LABEL]]


def search(X: pd.DataFrame, y: pd.Series, seed: int) -> Pipeline:
    """The best pipeline that successive halving finds, fitted on all of X.

    The search runs in this process and on one thread: with so few rows it takes seconds, and both starting workers and
    sharing each small fit among threads take longer (measured: 4 s on one thread, 5 to 20 s on two of a busy machine).
    """
    space = {
        "model__learning_rate": np.geomspace(0.02, 0.3, 12),
        "model__max_leaf_nodes": [4, 8, 15, 31],
        "model__min_samples_leaf": [10, 20, 40, 80],
        "model__l2_regularization": [0.0, 0.1, 1.0, 10.0],
    }
    halving = HalvingRandomSearchCV(
        pipeline(seed),
        space,
        n_candidates=12,
        factor=3,
        min_resources=500,
        scoring="neg_log_loss",
        cv=3,
        random_state=seed,
        n_jobs=1,
    )
    with threadpool_limits(limits=1):
        best: Pipeline = halving.fit(X, y).best_estimator_
    return best


def pipeline(seed: int) -> Pipeline:
    """Raw columns in, probabilities out: what is registered takes the input file as it is.

    Boosted trees take the missing ratings as they are; a category that was not there in training is encoded as none of them.
    """
    columns = ColumnTransformer(
        [("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES)],
        remainder="passthrough",
    )
    return Pipeline([("columns", columns), ("model", HistGradientBoostingClassifier(max_iter=80, random_state=seed))])


def held_out_metrics(model: Pipeline, X: pd.DataFrame, y: pd.Series) -> dict[str, float]:
    """Accuracy, area under the ROC curve and Brier score (0 is perfect) on rows the search has not seen."""
    probability = model.predict_proba(X)[:, 1]
    return {
        "accuracy": float(accuracy_score(y, probability >= 0.5)),
        "roc_auc": float(roc_auc_score(y, probability)),
        "brier": float(brier_score_loss(y, probability)),
    }


if __name__ == "__main__":
    sys.exit(main())
