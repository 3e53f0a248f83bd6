"""duckdb: read_csv from S3 by httpfs, a vectorised (Arrow) function, COPY back to S3."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import joblib
import pandas as pd
import pyarrow as pa

source, target, model_path = sys.argv[1:]
model = joblib.load(model_path)
package = Path(find_spec("duckdb_extension_httpfs").origin).parent
database = duckdb.connect()
database.load_extension(str(next(package.rglob("httpfs.duckdb_extension"))))
endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
database.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', "
    f"ENDPOINT '{endpoint.netloc}', URL_STYLE 'path', USE_SSL {str(endpoint.scheme == 'https').lower()}, REGION 'us-east-1')"
)
reader = "read_parquet" if source.endswith(".parquet") else "read_csv"
columns = database.sql(f"SELECT * FROM {reader}('{source}') LIMIT 0").columns  # noqa: S608 - our own names
features = [name for name in columns if name != "id"]


def score(*arrays: pa.ChunkedArray) -> pa.Array:
    """Score one vector of rows: 2,048 of them, which is duckdb's own size."""
    table = pd.DataFrame({name: array.to_pandas() for name, array in zip(features, arrays, strict=True)})
    parts = [pa.array(model.predict(table), pa.string()), pa.array(model.predict_proba(table)[:, 1])]
    return pa.StructArray.from_arrays(parts, ["prediction", "probability"])


database.create_function(
    "score",
    score,
    None,  # as many columns as there are, of the types they have
    duckdb.struct_type({"prediction": "VARCHAR", "probability": "DOUBLE"}),
    type="arrow",
)
names = ", ".join(f'"{name}"' for name in features)
database.execute(
    f"COPY (SELECT id, scored.prediction, scored.probability FROM (SELECT id, score({names}) AS scored "  # noqa: S608
    f"FROM {reader}('{source}'))) TO '{target}' (HEADER)"
)
