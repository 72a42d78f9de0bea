# The explorer, over the history that a sidecar keeps. Build it from the repository's root:
#
#   docker build --file docker/explorer.Dockerfile --tag mlmon-explorer .
#
# It only reads: mount the sidecar's /var/lib/mlmon and its configuration. Whoever reaches it sees the history;
# give it a login ([auth] in /app/.streamlit/secrets.toml) before you publish it on more than this machine.

FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mlmon ./mlmon
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/mlmon \
 && wheel=$(ls /wheels/mlmon-*.whl) \
 && pip --python /opt/mlmon/bin/python install --no-cache-dir --constraint constraints.txt "${wheel}[explorer]"

FROM python:3.12.11-slim-bookworm
RUN groupadd --gid 10001 mlmon \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin mlmon
COPY --from=build /opt/mlmon /opt/mlmon
ENV PATH=/opt/mlmon/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
EXPOSE 8501
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["mlmon"]
CMD ["explore", "--config", "/etc/mlmon/mlmon.toml", "--host", "0.0.0.0"]
