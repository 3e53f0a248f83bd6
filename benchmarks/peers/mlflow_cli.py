"""`mlflow models predict` reads and writes local files only: download, predict, upload.

Its output is JSON without the ids, so the rows are matched by their order.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3

source, target, model_path = sys.argv[1:]
if source.endswith(".parquet"):
    sys.exit("MlflowException: mlflow models predict takes content types csv and json, not Parquet")
client = boto3.client("s3")


def place(uri: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


with tempfile.TemporaryDirectory() as folder:
    table, answer = os.path.join(folder, "in.csv"), os.path.join(folder, "out.json")
    client.download_file(*place(source), table)
    program = str(Path(sys.executable).with_name("mlflow"))
    options = ["-m", model_path + ".mlflow", "-i", table, "-o", answer, "-t", "csv", "--env-manager", "local"]
    subprocess.run([program, "models", "predict", *options], check=True)
    client.upload_file(answer, *place(target))
