# The sidecar: mlmon and what it needs, without torch and without tools. Build it from the repository's root:
#
#   docker build --file docker/sidecar.Dockerfile --tag mlmon .
#
# It runs as user 10001 on a read-only root file system; what it keeps (spool, SQLite checkpoint, dead letters)
# is under /var/lib/mlmon. With the Kafka checkpoint it keeps nothing.

FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mlmon ./mlmon
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/mlmon \
 && pip --python /opt/mlmon/bin/python install --no-cache-dir --constraint constraints.txt /wheels/*.whl

FROM python:3.12.11-slim-bookworm
LABEL org.opencontainers.image.title="mlmon" \
      org.opencontainers.image.description="Monitoring sidecar for masked-language-model services" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 mlmon \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/mlmon --shell /usr/sbin/nologin mlmon \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/mlmon
COPY --from=build /opt/mlmon /opt/mlmon
ENV PATH=/opt/mlmon/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MLMON_HEALTH_URL=http://127.0.0.1:9477/healthz
WORKDIR /var/lib/mlmon
VOLUME ["/var/lib/mlmon"]
USER 10001:10001
EXPOSE 9477
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['MLMON_HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["mlmon"]
CMD ["run", "--config", "/etc/mlmon/mlmon.toml"]
