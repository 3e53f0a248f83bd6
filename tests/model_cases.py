"""Small frames and fitted estimators that the model tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

NUMBERS = ["age", "spend", "visits"]


def customers(rows: int = 200) -> pd.DataFrame:
    """One column of every dtype a model is usually trained on."""
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "late", "fine", "broken"])
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, rows),
            "spend": rng.normal(size=rows),
            "visits": rng.normal(size=rows).astype("float32"),
            "city": rng.choice(["a", "b", "c"], rows),
            "plan": pd.Categorical(rng.choice(["basic", "plus"], rows)),
            "loyal": rng.random(rows) > 0.5,
            "comment": [" ".join(rng.choice(words, 3)) for _ in range(rows)],
        }
    )


X = customers()
SCORE = X["age"] / 50 + X["spend"] + (X["city"] == "a")
WORDS = pd.Series(np.where(SCORE > 1.5, "yes", "no"))
INTEGERS = (SCORE > 1.5).astype(int)
BOOLEANS = SCORE > 1.5
THREE = pd.Series(np.select([SCORE < 1, SCORE < 2], ["low", "middle"], "high"))


def pipeline(model: Any) -> Pipeline:
    """One-hot encoded text and categories, scaled numbers, then `model`."""
    encode = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore"), ["city", "plan"]), ("numbers", StandardScaler(), NUMBERS)]
    )
    return make_pipeline(encode, model)


def text_pipeline() -> Pipeline:
    return make_pipeline(ColumnTransformer([("text", TfidfVectorizer(), "comment")]), LogisticRegression())


def selecting_pipeline() -> Pipeline:
    scaled = ColumnTransformer([("numbers", StandardScaler(), make_column_selector(dtype_include=np.number))])
    return make_pipeline(scaled, LogisticRegression())


CASES: dict[str, tuple[Any, pd.DataFrame, Any]] = {
    "logistic": (pipeline(LogisticRegression()), X, WORDS),
    "three-classes": (pipeline(LogisticRegression()), X, THREE),
    "forest-integers": (RandomForestClassifier(5, random_state=0), X[NUMBERS], INTEGERS),
    "boosting-booleans": (pipeline(GradientBoostingClassifier(n_estimators=3)), X, BOOLEANS),
    "hist-boosting-categories": (
        HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype"),
        X[[*NUMBERS, "plan"]],
        WORDS,
    ),
    "neighbours": (KNeighborsClassifier(), X[NUMBERS], THREE),
    "network": (
        make_pipeline(StandardScaler(), MLPClassifier((4,), solver="lbfgs", tol=1, random_state=0)),
        X[NUMBERS],
        WORDS,
    ),
    "calibrated": (CalibratedClassifierCV(LogisticRegression(max_iter=500), ensemble=False, cv=2), X[NUMBERS], WORDS),
    "text": (text_pipeline(), X[["comment"]], WORDS),
    "column-selector": (selecting_pipeline(), X[[*NUMBERS, "city"]], WORDS),
    "threshold": (FixedThresholdClassifier(LogisticRegression(max_iter=500), threshold=0.2), X[NUMBERS], WORDS),
    "no-probabilities": (make_pipeline(StandardScaler(), LinearSVC()), X[NUMBERS], WORDS),
    "one-feature": (DecisionTreeClassifier(max_depth=3), X[["spend"]], INTEGERS),
    "fitted-on-values": (LogisticRegression(max_iter=500), X[NUMBERS], INTEGERS),
    "ridge": (pipeline(Ridge()), X, SCORE),
    "hist-boosting-numbers": (HistGradientBoostingRegressor(max_iter=3), X[NUMBERS], SCORE),
    "float32": (Ridge(), X[["visits"]], SCORE.astype("float32")),
}


def fitted(case: str) -> tuple[Any, pd.DataFrame, Any]:
    """The estimator of a case, fitted, with its frame and target."""
    estimator, frame, target = CASES[case]
    features = frame.to_numpy() if case == "fitted-on-values" else frame
    return estimator.fit(features, target), frame, target


def simple() -> Any:
    """The smallest model worth the name, on the numeric columns."""
    return LogisticRegression(max_iter=500).fit(X[NUMBERS], WORDS)
