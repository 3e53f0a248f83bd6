# The program with its core dependencies, run by an ordinary user. `make image-test` builds and tries it.
#   docker run --rm -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY -e BATCH_ROOT=s3://bucket -v "$PWD/jobs:/jobs:ro" IMAGE run weekly_satisfaction
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/venv
# The lock first and alone: as long as it does not change, neither does this layer.
COPY requirements/core.txt requirements/core.txt
RUN /opt/venv/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/core.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY batch batch
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/venv/bin/python -m pip uninstall --yes setuptools pip

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
# Logs appear as they are written; a bare job name is looked for in /jobs.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 BATCH_JOBS=/jobs
WORKDIR /jobs
# By number, so that a cluster can see that it is not root.
USER 10001:10001
ENTRYPOINT ["batch-predict"]
CMD ["--help"]
