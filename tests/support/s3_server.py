"""A real S3 endpoint on this machine, and stores uploaded to it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

BUCKET = "laboratory"


@contextmanager
def s3_endpoint() -> Iterator[str]:
    """A server with one empty bucket, and the environment that leads to it; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            }.items():
                environment.setenv(name, value)
            urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")).close()
            yield f"http://{host}:{port}"
    finally:
        server.stop()


def upload(folder: Path, key: str) -> str:
    """Put all files below a folder into the bucket; the URL that they are at."""
    bucket = S3Store(BUCKET)
    for path in folder.rglob("*"):
        if path.is_file():
            obstore.put(bucket, f"{key}/{path.relative_to(folder).as_posix()}".lstrip("/"), path.read_bytes())
    return f"s3://{BUCKET}/{key}"
