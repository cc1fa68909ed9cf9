# The runtime on ONNX Runtime's CUDA provider and the server, on a GPU:
#     docker build --file docker/gpu.Dockerfile --tag xlm-serve:gpu .
#     docker run --gpus all --read-only --publish 127.0.0.1:8000:8000 --volume "$PWD/BUNDLE:/bundle:ro" xlm-serve:gpu
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY xlm_export xlm_export
COPY xlm_runtime xlm_runtime
# hadolint ignore=DL3013
RUN python3 -m venv --without-pip /opt/xlm \
    && pip --python /opt/xlm/bin/python install --no-cache-dir ".[gpu,http]"

FROM base
COPY --from=build /opt/xlm /opt/xlm
# nothing is written: bytecode is there, and bundles are read
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["/opt/xlm/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
# `docker run IMAGE BUNDLE… --option` replaces the last line
ENTRYPOINT ["/opt/xlm/bin/xlm-runtime", "serve", "--in-process", "--provider", "cuda", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/bundle"]
