"""The script people write: read all, predict, write all."""

import sys

import joblib
import pandas as pd

source, target, model_path = sys.argv[1:]
model = joblib.load(model_path)
frame = pd.read_parquet(source) if source.endswith(".parquet") else pd.read_csv(source)
features = frame.drop(columns="id")
pd.DataFrame(
    {"id": frame["id"], "prediction": model.predict(features), "probability": model.predict_proba(features)[:, 1]}
).to_csv(target, index=False)
