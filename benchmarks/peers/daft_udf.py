"""Daft: a class with a batch method that gives two columns, written as CSV parts."""

import os
import sys

import daft
import joblib
import pandas as pd
import pyarrow as pa
from daft import DataType, Series

source, target, model_path = sys.argv[1:]
storage = daft.io.IOConfig(
    s3=daft.io.S3Config(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        region_name=os.environ["AWS_REGION"],
        key_id=os.environ["AWS_ACCESS_KEY_ID"],
        access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        use_ssl=False,
    )
)
read = daft.read_parquet if source.endswith(".parquet") else daft.read_csv
frame = read(source, io_config=storage)
features = [name for name in frame.column_names if name != "id"]


@daft.cls
class Predictor:
    """Holds the model."""

    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    @daft.method.batch(
        return_dtype=DataType.struct({"prediction": DataType.string(), "probability": DataType.float64()}),
        unnest=True,
        batch_size=50_000,
    )
    def score(self, *columns: Series) -> pa.Array:
        """Score one batch."""
        table = pd.DataFrame(
            {name: column.to_arrow().to_pandas() for name, column in zip(features, columns, strict=True)}
        )
        prediction, probability = self.model.predict(table), self.model.predict_proba(table)[:, 1]
        return pa.StructArray.from_arrays(
            [pa.array(prediction, pa.large_string()), pa.array(probability)], ["prediction", "probability"]
        )


predictor = Predictor(model_path)
frame.select(frame["id"], predictor.score(*(frame[name] for name in features))).write_csv(target, io_config=storage)
