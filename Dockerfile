# One image for GPU nodes, or, with VARIANT=cpu, a smaller one for machines without a GPU: see docs/docker.md.
ARG BASE=python:3.12-slim
FROM ${BASE}

# cuda: the default torch, with what CUDA needs. cpu: torch and torchvision from TORCH_INDEX first, PyTorch's index of CPU wheels.
ARG VARIANT=cuda
ARG TORCH_INDEX=
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/wsi-stain/bin:$PATH

WORKDIR /app
RUN python3 -m venv /opt/wsi-stain && \
    if [ "$VARIANT" = cpu ] && [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" 'torch>=2.10' 'torchvision>=0.25'; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY pipelines ./pipelines
COPY wsi_stain ./wsi_stain
# What is installed here is this directory, whose dependencies are ranges on purpose.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[dicom,evaluate,features,onnx,pcam,s3,tensorboard]' \
    && useradd --no-create-home --uid 1000 stain

# By number, so that a cluster can see that it is not root. USER names whoever --user makes it, for libraries that ask.
USER 1000
ENV HOME=/tmp USER=stain
WORKDIR /tmp
ENTRYPOINT ["wsi-stain"]
CMD ["--help"]
