"""Ray Data: `map_batches` with a class that holds the model, written as CSV parts."""

import os
import sys
from urllib.parse import urlsplit

import joblib
import pandas as pd
import pyarrow.fs
import ray

source, target, model_path = sys.argv[1:]


class Predictor:
    """An actor with the model."""

    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score one batch."""
        features = frame.drop(columns="id")
        columns = {
            "prediction": self.model.predict(features),
            "probability": self.model.predict_proba(features)[:, 1],
        }
        return frame[["id"]].assign(**columns)


# By default it would join a cluster that somebody else has started on this machine.
ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count())
endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
storage = pyarrow.fs.S3FileSystem(endpoint_override=endpoint.netloc, scheme=endpoint.scheme, region="us-east-1")
read = ray.data.read_parquet if source.endswith(".parquet") else ray.data.read_csv
# As many actors as leave one core to the read tasks: with an actor on every core the job waits for itself.
read(source.removeprefix("s3://"), filesystem=storage).map_batches(
    Predictor,
    fn_constructor_args=(model_path,),
    batch_format="pandas",
    batch_size=50_000,
    concurrency=max(1, (os.cpu_count() or 2) - 1),
).write_csv(target.removeprefix("s3://"), filesystem=storage)
