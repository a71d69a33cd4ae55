# syntax=docker/dockerfile:1
# docker build -t infold .                        CPU
# docker build -t infold:cuda --target cuda .     NVIDIA GPU
# hadolint global ignore=DL3042

FROM python:3.11-slim AS base
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/infold
WORKDIR /src

# torch is by far the largest layer, and changes least: it comes first, before any file of the project.
FROM base AS torch-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/infold install --no-deps --index-url "${TORCH_INDEX}" torch==2.13.0

FROM base AS torch-cuda
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/infold install torch==2.13.0

FROM base AS wheel
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --constraint constraints.txt setuptools \
 && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["traces"], sep="\n")' > requirements.txt
COPY README.md LICENSE ./
COPY adapters adapters
COPY infold infold
COPY service service
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist .

FROM torch-cpu AS builder-cpu
COPY --from=wheel /src/requirements.txt /src/constraints.txt ./
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/infold install --constraint constraints.txt --requirement requirements.txt

FROM torch-cuda AS builder-cuda
COPY --from=wheel /src/requirements.txt /src/constraints.txt ./
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/infold install --constraint constraints.txt --requirement requirements.txt

FROM python:3.11-slim AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="infold" \
      org.opencontainers.image.description="An LLM server that keeps learning while it serves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 infold \
 && useradd --uid 10001 --gid infold --home-dir /data --no-create-home --shell /usr/sbin/nologin infold \
 && install --directory --owner infold --group infold /data
ENV PATH=/opt/infold/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface \
    INFOLD_HOST=0.0.0.0 \
    INFOLD_PORT=8000 \
    INFOLD_DATA_DIR=/data \
    INFOLD_CACHE_DIR=/data/cache
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"INFOLD_PORT\"]}/healthz', timeout=4)"]
ENTRYPOINT ["infold"]
CMD ["serve"]

# The project itself is a small layer of its own: an upgrade fetches no torch.
FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=builder-cuda /opt/infold /opt/infold
RUN --mount=type=bind,from=wheel,source=/src/dist,target=/dist \
    pip --python /opt/infold install --no-cache-dir --no-deps --no-index /dist/*.whl
USER 10001:10001

FROM runtime AS cpu
COPY --from=builder-cpu /opt/infold /opt/infold
RUN --mount=type=bind,from=wheel,source=/src/dist,target=/dist \
    pip --python /opt/infold install --no-cache-dir --no-deps --no-index /dist/*.whl
USER 10001:10001
