"""The same for files that do not fit: chunk by chunk."""

import sys

import fsspec
import joblib
import pandas as pd

source, target, model_path = sys.argv[1:]
if source.endswith(".parquet"):
    sys.exit("ValueError: pandas reads Parquet only as a whole, there is no chunksize")
model = joblib.load(model_path)
with fsspec.open(target, "w") as out:
    for number, frame in enumerate(pd.read_csv(source, chunksize=100_000)):
        features = frame.drop(columns="id")
        columns = {"prediction": model.predict(features), "probability": model.predict_proba(features)[:, 1]}
        frame[["id"]].assign(**columns).to_csv(out, index=False, header=number == 0)
