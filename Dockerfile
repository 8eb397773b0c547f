# One image for GPU nodes and CPUs. Slides are mounted read-only, outputs writable:
#
#   docker build -t wsi-stain .
#   docker run --rm --gpus all --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#       -v /slides:/slides:ro -v /out:/out wsi-stain run /slides --reference /slides/ref.svs --out /out
#
# Without a GPU leave --gpus out. Dask needs no more shared memory than the default.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/tmp

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY pipelines ./pipelines
COPY wsi_stain ./wsi_stain
RUN pip install '.[baselines,dicom,evaluate,onnx,pcam,s3,tensorboard]' && useradd --no-create-home --uid 1000 stain

# By number, so that a cluster can see that it is not root. USER names whoever --user makes it, for libraries that ask.
USER 1000
ENV USER=stain
WORKDIR /tmp
ENTRYPOINT ["wsi-stain"]
CMD ["--help"]
