# syntax=docker/dockerfile:1
# Two stages: the first installs the pinned and hashed requirements, the second is Python and nothing but what runs.
#
#   docker build -t provisioner:0.2.0 .
#
# If your packages come from a mirror, pass pip's configuration as a secret; no layer keeps it:
#
#   docker build --secret id=pip,src=/etc/pip.conf -t provisioner:0.2.0 .
#
# Both stages need the same Python, 3.11 or newer with venv. Pin it by digest in builds that have to be repeatable.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /build
COPY requirements.lock ./
# Fetch all of the lock, so that every hash is checked. No later step fetches a package.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /build/tools \
    && /build/tools/bin/python -m pip download --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --require-hashes --requirement requirements.lock --dest /build/packages
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY docs/errors.md docs/errors.md
COPY provisioner provisioner
# The lock also pins what the build and `provisioner demo` need. The image only gets what the package requires.
RUN /build/tools/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-index \
        --find-links /build/packages hatchling editables \
    && /build/tools/bin/python -m pip wheel --no-cache-dir --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --wheel-dir /build/packages . \
    && python3 -m venv --without-pip /opt/provisioner \
    && /build/tools/bin/python -m pip --python /opt/provisioner/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-index --find-links /build/packages --compile infisical-provisioner

FROM ${BASE}
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="provisioner" \
      org.opencontainers.image.description="Gives many Infisical projects their OpenRouter connection, from rows in a PostgreSQL table." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/provisioner /opt/provisioner
# Everything is compiled already, and the root file system may be read-only. HOME is a folder that does not exist.
ENV PATH=/opt/provisioner/bin:$PATH \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, because an orchestrator that forbids root cannot look up names.
USER 10001:10001
# Published only with listen.address 0.0.0.0:9464. By default the port answers inside the container alone.
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["provisioner", "healthcheck"]
ENTRYPOINT ["provisioner"]
CMD ["run"]
