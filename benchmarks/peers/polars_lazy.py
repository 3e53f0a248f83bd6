"""polars: a lazy scan, `map_batches` in the streaming engine, and a streamed CSV."""

import os
import sys

import joblib
import polars as pl

source, target, model_path = sys.argv[1:]
model = joblib.load(model_path)
options = {
    "aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"],
    "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    "aws_region": os.environ["AWS_REGION"],
    "aws_allow_http": "true",
}


def score(frame: pl.DataFrame) -> pl.DataFrame:
    """Score one batch of the stream."""
    if not frame.height:
        return pl.DataFrame(schema={"id": pl.Int64, "prediction": pl.String, "probability": pl.Float64})
    features = frame.drop("id").to_pandas()
    return frame.select("id").with_columns(
        prediction=pl.Series(model.predict(features), dtype=pl.String),
        probability=pl.Series(model.predict_proba(features)[:, 1]),
    )


scan = pl.scan_parquet if source.endswith(".parquet") else pl.scan_csv
scan(source, storage_options=options).map_batches(
    score, schema={"id": pl.Int64, "prediction": pl.String, "probability": pl.Float64}, streamable=True
).sink_csv(target, storage_options=options)
