"""Storage to read from: a local file or directory, or an object or prefix in an S3 bucket. Knows no formats.

A local storage path is a plain `Path`. An `S3Path` has the few members of a `Path` that reading needs, so that one way
through the code reads both; writing is local. Credentials, region and endpoint come from the usual environment
variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL (another service
than Amazon's), AWS_ALLOW_HTTP=true (an endpoint without TLS), AWS_SKIP_SIGNATURE=true (a public bucket).

Only regular files are opened: a FIFO would wait for a writer, and a device never ends.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from wsi_stain.core.errors import SlideError, StoreError, WsiStainError

if TYPE_CHECKING:
    from obstore.store import S3Store

_RETRY_S = 30
_REMEDY = (
    "Check bucket and prefix, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and for another service than "
    "Amazon's AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true where it has no TLS)"
)


@dataclass(frozen=True)
class S3Path:
    """An object in an S3 bucket, or the prefix of several. May be pickled.

    Attributes:
        bucket: The bucket's name.
        key: The object's key, without slashes at its ends; empty for the bucket itself.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}".lstrip("/"))

    @property
    def name(self) -> str:
        """Return the part after the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> S3Path:
        """Return the part before the last slash."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def read_bytes(self) -> bytes:
        """Read the whole object.

        Raises:
            FileNotFoundError: There is none.
            StoreError: The bucket cannot be read.
        """
        with _explain_errors(self) as (obstore, bucket):
            return bytes(obstore.get(bucket, self.key).bytes())


StoragePath: TypeAlias = Path | S3Path


def storage_path(path_or_url: str | StoragePath) -> StoragePath:
    """Return the storage path that a path or a URL `s3://bucket/prefix` means.

    Raises:
        StoreError: The URL names no bucket.
    """
    if isinstance(path_or_url, S3Path):
        return path_or_url
    match = re.fullmatch(r"s3:/+([^/]*)/*(.*?)/*", str(path_or_url))  # a Path has folded the slashes of an URL
    if match is None:
        return Path(path_or_url)
    if not match[1]:
        raise StoreError(f"{path_or_url} names no bucket", "Write s3://bucket/prefix")
    return S3Path(match[1], match[2])


def absolute_path(path: Path) -> Path:
    """Return a path as every process understands it; an URL of S3, whose slashes a Path has folded, is one already."""
    return path if isinstance(storage_path(path), S3Path) else path.absolute()


def is_there(path: Path) -> bool:
    """Check whether a file or directory is there; of what lies on S3 only reading it tells."""
    return isinstance(storage_path(path), S3Path) or path.exists()


def real_path(path: Path) -> Path:
    """Return a path without links, absolute; as far as they lead, where one leads to itself or to nothing."""
    return Path(os.path.realpath(path))


def existing_parent(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    real = real_path(path)
    return next(parent for parent in (real, *real.parents) if os.path.exists(parent))


def list_folders(path: StoragePath) -> list[str]:
    """List the folders in a folder, sorted, but for hidden ones; none where there is no such folder."""
    if isinstance(path, S3Path):
        names = _s3_folders(path)
    else:
        names = [entry.name for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
    return sorted(name for name in names if not name.startswith("."))


def list_objects(path: S3Path) -> list[tuple[str, int, str]]:
    """List the objects below a prefix: key below it, bytes, and the service's own digest of the content."""
    with _explain_errors(path) as (obstore, bucket):
        pages = list(obstore.list(bucket, f"{path.key}/" if path.key else None))
    return [
        (each["path"].removeprefix(f"{path.key}/"), each["size"], str(each["e_tag"])) for page in pages for each in page
    ]


@contextmanager
def open_bucket(path: S3Path) -> Iterator[S3Store]:
    """Give obstore's own object for a path's bucket, for libraries that read by it; explain its errors."""
    with _explain_errors(path) as (_, bucket):
        yield bucket


class OpenFile(Protocol):
    """A file to read from at positions; threads may share it."""

    def read_end(self, length: int) -> tuple[bytes, int]:
        """Read the last `length` bytes, or all of a shorter file; and the file's size."""

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read the bytes of each (offset, length)."""

    def close(self) -> None:
        """Close the file."""


def open_file(path: StoragePath) -> OpenFile:
    """Open a file; FileNotFoundError or another OSError, now or when it is read, where that cannot be."""
    return _S3File(path) if isinstance(path, S3Path) else _LocalFile(path)


class _LocalFile:
    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not be waited for

    def read_end(self, length: int) -> tuple[bytes, int]:
        size = os.fstat(self._handle).st_size
        return os.pread(self._handle, length, max(size - length, 0)), size

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        return (os.pread(self._handle, length, offset) for offset, length in ranges)

    def close(self) -> None:
        os.close(self._handle)


class _S3File:
    """Neighbouring ranges become one request, so that a region costs a few requests a shard, not one a tile."""

    def __init__(self, path: S3Path) -> None:
        self._path = path

    def read_end(self, length: int) -> tuple[bytes, int]:
        with _explain_errors(self._path) as (obstore, bucket):
            response = obstore.get(bucket, self._path.key, options={"range": {"suffix": length}})
            return bytes(response.bytes()), response.meta["size"]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        starts, lengths = [offset for offset, _ in ranges], [length for _, length in ranges]
        with _explain_errors(self._path) as (obstore, bucket):
            return map(bytes, obstore.get_ranges(bucket, self._path.key, starts=starts, lengths=lengths))

    def close(self) -> None:
        pass


def _s3_folders(path: S3Path) -> list[str]:
    with _explain_errors(path) as (obstore, bucket):
        listing = obstore.list_with_delimiter(bucket, path.key or None)
    return [prefix.rpartition("/")[2] for prefix in listing["common_prefixes"]]


@contextmanager
def _explain_errors(path: S3Path) -> Iterator[tuple[Any, S3Store]]:
    """Give the module obstore and the bucket; their errors become FileNotFoundError or StoreError."""
    try:
        import obstore
    except ImportError as error:
        raise StoreError(f"Reading {path} needs obstore", "Install it: pip install 'wsi-stain[s3]'") from error
    try:
        settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        yield obstore, _bucket(path.bucket, settings)
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _unreadable_error(path, error) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _unreadable_error(path, error) from error


@cache
def _bucket(name: str, settings: frozenset[tuple[str, str]]) -> S3Store:
    """Open a bucket once for the environment's settings, which obstore reads itself."""
    from obstore.store import S3Store

    return S3Store(name, retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_S)})


def _unreadable_error(path: S3Path, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}", _REMEDY)


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def odd_kind(path: Path) -> str:
    """Return what a path is in words, links followed; empty where it is a regular file, or cannot be looked at."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return ""
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def check_regular(path: Path, error: type[WsiStainError] = SlideError) -> None:
    """Refuse to open what is no regular file; what is not there is left to who opens it.

    Raises:
        WsiStainError: It is a directory, a FIFO, a socket or a device; of the kind that is given.
    """
    if kind := odd_kind(path):
        raise error(f"{path} cannot be opened: it is {kind}, expected a regular file", "Name the file itself")
