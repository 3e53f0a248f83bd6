"""The least a program with our libraries could do with a small file: import them, load the model, predict from S3 to S3."""

import io
import sys

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import skops.io

source, target, model = sys.argv[1:]
client = boto3.client("s3")


def fetch(uri: str) -> bytes:
    """The object's body."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


estimator = skops.io.loads(fetch(model))
frame = pa.csv.read_csv(io.BytesIO(fetch(source))).to_pandas()
probabilities = estimator.predict_proba(frame.drop(columns="id"))
scored = pd.DataFrame(
    {
        "id": frame["id"],
        "prediction": estimator.classes_[probabilities.argmax(axis=1)],
        "probability": probabilities[:, 1],
    }
)
bucket, _, key = target.removeprefix("s3://").partition("/")
client.put_object(Bucket=bucket, Key=key, Body=scored.to_csv(index=False).encode())
