# docker build -t neurostorm-app .
# Arguments: BASE_IMAGE (anything with python3 3.11+ and its venv), PIP_ARGS (an index with the
# CPU-only or the CUDA build of torch).
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
COPY . /src
RUN PIP_ARGS="${PIP_ARGS}" /src/container/install.sh /src /opt/neurostorm

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="neurostorm-app" \
      org.opencontainers.image.description="A BIDS App: fMRI to foundation-model embeddings, offline" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/neurostorm /opt/neurostorm
COPY --from=build /version /version

# Any uid, a read-only root, no home: everything that wants to cache does so in /tmp.
ENV PATH=/opt/neurostorm/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torch \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NO_ET=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65534:65534
WORKDIR /tmp
ENTRYPOINT ["neurostorm-app"]
