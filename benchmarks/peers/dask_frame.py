"""dask.dataframe: `map_partitions` on a local cluster of two processes, one file per partition."""

import sys

import dask.dataframe as dd
import joblib
import pandas as pd
from dask.distributed import Client, LocalCluster


def score(frame: pd.DataFrame, model: object) -> pd.DataFrame:
    """Score one partition."""
    features = frame.drop(columns="id")
    columns = {"prediction": model.predict(features), "probability": model.predict_proba(features)[:, 1]}
    return frame[["id"]].assign(**columns)


def main() -> None:
    """Read, score and write."""
    source, target, model_path = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        model = client.scatter(joblib.load(model_path), broadcast=True)
        frame = dd.read_parquet(source) if source.endswith(".parquet") else dd.read_csv(source)
        meta = {"id": "int64", "prediction": "str", "probability": "float64"}
        frame.map_partitions(score, model, meta=meta).to_csv(f"{target}part-*.csv", index=False)


if __name__ == "__main__":
    main()
