"""PySpark: a pandas UDF over an iterator of batches. Its package has no S3 connector: download, score, upload the parts."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import joblib
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf, struct

source, target, model_path = sys.argv[1:]
os.environ["PYSPARK_PYTHON"] = sys.executable  # or its workers take the first python on the path
client = boto3.client("s3")
bucket, _, key = source.removeprefix("s3://").partition("/")


def score(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Load the model once per task, then score batch by batch."""
    model = joblib.load(model_path)
    for features in batches:
        yield pd.DataFrame({"prediction": model.predict(features), "probability": model.predict_proba(features)[:, 1]})


with tempfile.TemporaryDirectory() as folder:
    table, parts = os.path.join(folder, os.path.basename(key)), os.path.join(folder, "out")
    client.download_file(bucket, key, table)
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .getOrCreate()
    )
    read = (
        spark.read.parquet(table) if key.endswith(".parquet") else spark.read.csv(table, header=True, inferSchema=True)
    )
    features = [name for name in read.columns if name != "id"]
    # The type is parsed by the session, so there must be one.
    udf = pandas_udf(score, "prediction string, probability double")
    scored = read.select("id", udf(struct(*features)).alias("scored"))
    scored.select("id", "scored.prediction", "scored.probability").write.csv(parts, header=True)
    bucket, _, prefix = target.removeprefix("s3://").partition("/")
    for part in sorted(Path(parts).glob("part-*.csv")):
        client.upload_file(str(part), bucket, prefix + part.name)
    spark.stop()
