# syntax=docker/dockerfile:1.18
# One image for the console, the workers, the one-shot jobs and Prefect's server (docker-compose.yml); docs/deployment.md tells how to use it.
#
#   docker build -t starloom:cpu .                         # the last stage but one
#   docker build -t starloom:gpu --target gpu .            # CUDA builds of PyTorch, and flash-attn
#
# Bases are pinned by version. To pin them by digest too, append the one that
# `docker buildx imagetools inspect python:3.11.15-slim-bookworm` prints: python:3.11.15-slim-bookworm@sha256:…

FROM python:3.11.15-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 \
    PATH=/opt/venv/bin:$PATH


# What the image needs, in the exact versions of the lock. No source is copied yet: this layer stays until a requirement changes.
FROM base AS dependencies
# Extras of pyproject.toml, separated by blanks.
ARG EXTRAS="train s3 dask"
# An index of PyTorch builds beside the usual one. Empty takes the usual one's, which on Linux are for CUDA and 3 GB larger;
# PyTorch's "get started" page names the index of builds for processors alone.
ARG TORCH_INDEX_URL=""
WORKDIR /src
COPY pyproject.toml requirements.lock deploy/extras.lock deploy/needed.py ./
# EXTRAS is several words on purpose.
# hadolint ignore=SC2086
RUN python -m venv /opt/venv \
    && python needed.py ${EXTRAS} > needed.txt \
    && pip install --no-cache-dir ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} \
        --constraint requirements.lock --constraint extras.lock --requirement needed.txt \
    && pip check


# Starloom itself, as a wheel: the runtime holds no second copy of the source.
FROM dependencies AS package
COPY . /src/
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src


# flash-attn has no wheels for every PyTorch: it is compiled, with the nvcc of the CUDA that PyTorch was built for. An hour on eight cores.
# An empty FLASH_ATTN leaves it out; attention then takes PyTorch's own kernels.
FROM dependencies AS flash-attn
ARG FLASH_ATTN="2.8.3.post2"
ARG MAX_JOBS="4"
# Debian keeps one version of a package at a time: a pinned one fails the day after.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
# What compiles is not part of the image; its versions follow PyTorch's CUDA.
# hadolint ignore=DL3013
RUN mkdir /wheels \
    && if [ -n "${FLASH_ATTN}" ]; then \
        cuda="$(python -c 'import torch; print(torch.version.cuda or str())')" \
        && if [ -z "${cuda}" ]; then \
            echo "this PyTorch is built for processors alone: build the target gpu with an empty TORCH_INDEX_URL, or with FLASH_ATTN=" >&2; exit 1; \
        fi \
        && pip install --no-cache-dir "cuda-toolkit[nvcc,cccl,cudart]==${cuda}.*" ninja packaging wheel \
        && CUDA_HOME="$(python -c 'import glob, site; print(glob.glob(site.getsitepackages()[0] + "/nvidia/cu1*")[0])')" \
            pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels "flash-attn==${FLASH_ATTN}"; \
    fi


FROM base AS cpu
ARG REVISION="unknown"
LABEL org.opencontainers.image.title="starloom" \
      org.opencontainers.image.description="From source repositories to a released code LLM, every token traceable to its file" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# Volumes that are mounted for the first time take these folders' owner.
RUN groupadd --gid 10001 starloom \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --shell /usr/sbin/nologin starloom \
    && install --directory --owner=starloom --group=starloom /store /scratch /var/cache/starloom
COPY --from=package /opt/venv /opt/venv
COPY deploy/healthy.py deploy/bucket.py /opt/starloom/
COPY conf /recipes
# The cache holds the compiled kernels, models of the Hub and fonts; it must stay writable (another processor compiles once more).
# Scratch is on a disk: what is fetched from an object store can be larger than memory.
ENV XDG_CACHE_HOME=/var/cache/starloom \
    PREFECT_HOME=/tmp/prefect \
    TMPDIR=/scratch
USER 10001:10001
RUN starloom compile
# Prefect reads a file .env of the folder that it is started in: nobody's lies here.
WORKDIR /recipes
EXPOSE 4300
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/starloom/healthy.py", "http://127.0.0.1:4300/healthz"]
# One process a container: the console. docker-compose.yml says what the other services start.
CMD ["starloom", "serve", "--only", "console", "--host", "0.0.0.0", "--port", "4300", "--store", "/store", "/recipes/demo.yaml"]


FROM cpu AS gpu
USER 0:0
RUN --mount=type=bind,from=flash-attn,source=/wheels,target=/wheels \
    find /wheels -name '*.whl' -exec pip install --no-cache-dir --no-deps {} +
USER 10001:10001


# What `docker build` makes without --target.
FROM cpu
