"""Run in MLflow's environment: save a joblib model as an MLflow model beside it, with a signature. Not measured."""

import shutil
import sys

import joblib
import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature

model_path, sample_path = sys.argv[1:]
model, sample = joblib.load(model_path), pd.read_parquet(sample_path)
shutil.rmtree(model_path + ".mlflow", ignore_errors=True)
mlflow.sklearn.save_model(
    model,
    model_path + ".mlflow",
    signature=infer_signature(sample, model.predict_proba(sample)),
    pyfunc_predict_fn="predict_proba",
    serialization_format="cloudpickle",
)
