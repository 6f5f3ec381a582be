# docker build -t neurostorm-app .
# docs/containers.md describes every argument, and how what comes out is run.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# What the lock file pins: this layer stays as long as the lock file does.
FROM ${BASE_IMAGE} AS packages
ARG VARIANT=cpu
ARG TORCH_INDEX=""
ARG PIP_ARGS=""
ARG EXTRAS=""
COPY pyproject.toml requirements.lock /src/
COPY container/install.sh container/pins.py container/build.lock container/cuda.lock /src/container/
RUN /src/container/install.sh packages /src /opt/neurostorm

FROM packages AS app
COPY README.md LICENSE NOTICE /src/
COPY container/sbom.py container/sbom.lock /src/container/
COPY src /src/src
COPY bids_app /src/bids_app
COPY pipelines /src/pipelines
COPY models /src/models
RUN /src/container/install.sh app /src /opt/neurostorm

FROM app AS baked
ARG TEMPLATES=""
ARG TEMPLATES_DIR=container/templates
ARG WEIGHTS=""
ARG WEIGHTS_DIR=container/weights
ARG ACCEPT_LICENCE=no
COPY container/bake_templates.py /src/container/
COPY ${TEMPLATES_DIR} /opt/templateflow
COPY ${WEIGHTS_DIR} /opt/weights
RUN /src/container/install.sh bake /src /opt/neurostorm

FROM ${BASE_IMAGE}
COPY --from=app /opt/neurostorm /opt/neurostorm
COPY --from=app /version /sbom.cdx.json /
COPY --from=baked /opt/templateflow /opt/templateflow
COPY --from=baked /opt/weights /opt/weights

ARG VERSION=0.6.0
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="neurostorm-app" \
      org.opencontainers.image.description="A BIDS App: fMRI to foundation-model embeddings, offline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

# Any uid, a read-only root, no home: everything that wants to cache does so in /tmp.
ENV PATH=/opt/neurostorm/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torch \
    TRITON_CACHE_DIR=/tmp/triton \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NEUROSTORM_WEIGHTS=/opt/weights \
    NO_ET=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NEUROSTORM_APP_CONTAINER=docker
USER 65534:65534
WORKDIR /tmp
ENTRYPOINT ["neurostorm-app"]
