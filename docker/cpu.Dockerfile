# The runtime on ONNX Runtime and the server, on a CPU:
#     docker build --file docker/cpu.Dockerfile --tag xlm-serve .
#     docker run --read-only --publish 127.0.0.1:8000:8000 --volume "$PWD/BUNDLE:/bundle:ro" xlm-serve
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY xlm_export xlm_export
COPY xlm_runtime xlm_runtime
# a virtual environment without pip, which the image has no use for; versions are bounded in pyproject.toml
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/xlm \
    && pip --python /opt/xlm/bin/python install --no-cache-dir ".[cpu,http]"

FROM python:3.11-slim
COPY --from=build /opt/xlm /opt/xlm
# nothing is written: bytecode is there, and bundles are read
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["/opt/xlm/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
# `docker run IMAGE BUNDLE… --option` replaces the last line
ENTRYPOINT ["/opt/xlm/bin/xlm-runtime", "serve", "--in-process", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/bundle"]
