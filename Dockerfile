# The program with its core dependencies, run by an ordinary user: one job, the scheduler's loop or the watcher. docs/container.md
# shows all three; `make image-test` builds this and tries it.
#
# For builds that are the same next year, give the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:…
# (`docker buildx imagetools inspect python:3.11-slim-bookworm` prints it). It is not pinned here, so that a rebuild takes Debian's fixes.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
# The lock first and alone: as long as it does not change, neither does this layer.
COPY requirements/core.txt requirements/core.txt
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r requirements/core.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY batch batch
# The packages' own tests are over 100 MB and never run here. Bytecode is written now, because nothing can be later, and
# trusted without a look at the source's time, which not every builder keeps.
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && /opt/venv/bin/python -m pip uninstall --yes setuptools pip \
    && find /opt/venv/lib -type d -name tests -prune -exec rm -r {} + \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
# Healthy unless the loop's heartbeat is there and old: `run` has none, and is healthy as long as it lives.
# hadolint ignore=SC2016
RUN printf '%s\n' '#!/bin/sh' \
      'silent=$(find "${BATCH_HEARTBEAT:-/tmp/none}" -mmin +3 2>/dev/null)' \
      'test -z "$silent" || { echo "$silent was not touched for 3 minutes" >&2; exit 1; }' \
      > /opt/venv/bin/batch-predict-healthy \
    && chmod 755 /opt/venv/bin/batch-predict-healthy

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="batch-predict" \
      org.opencontainers.image.description="Scores files in S3-compatible storage with a scikit-learn model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
# Logs appear as they are written; a bare job name is looked for in /jobs; the engine is the only source of parallelism.
# Nothing is written but below /tmp: the heartbeat of `schedule --run` and `watch`, and the copies of compressed inputs.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    BATCH_JOBS=/jobs \
    BATCH_HEARTBEAT=/tmp/batch-predict.heartbeat
WORKDIR /jobs
# By number, so that a cluster can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=5s --start-period=30s --retries=2 CMD ["batch-predict-healthy"]
ENTRYPOINT ["batch-predict"]
CMD ["--help"]
