"""Digests of large files, by pieces: threads share the work, and begin while the file is still being written.

A file of at most one piece, 4 MiB, has its SHA-256. A larger one has the SHA-256 of its pieces' SHA-256, one after the
other: a checksum of checksums, as object stores have them for uploads in parts. One thread hashes more slowly than
memory is copied, so the plain digest of a pyramid would take as long as all the rest of its assembly.

Memory bound: 1 MiB for each of two threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PIECE = 2**22
"""Bytes of a piece."""

_READ = 2**20
_THREADS = 2


def pieces_digest(path: Path) -> str:
    """The digest of a file, hex."""
    with open(path, "rb") as file, hashed(file) as pieces:
        return pieces.digest()


@contextmanager
def hashed(file: BinaryIO) -> Iterator[HashedFile]:
    """A file to write through, then to ask for its digest."""
    pool = ThreadPoolExecutor(_THREADS, "hash")
    try:
        yield HashedFile(file, pool)
    finally:
        pool.shutdown(cancel_futures=True)


class HashedFile:
    """A file that is hashed as it grows. What lies behind its first piece is written once, front to back.

    Args:
        file: The file, open for reading and, where it is to grow, empty and open for writing.
        pool: The threads that hash.
    """

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool, self._at = file, pool, 0
        self._later: list[Future[bytes]] = []  # digests of all pieces but the first

    def write(self, content: bytes | memoryview) -> None:
        """Write bytes; later pieces that are whole by that begin to be hashed."""
        self._at += self._file.write(content)
        if self._at // PIECE - 1 > len(self._later):
            self._file.flush()
            self._hash_later(self._at // PIECE - 1)

    def seek(self, place: int) -> None:
        """Go back to the first piece, for bytes that only the end can tell."""
        assert place < PIECE, "only the first piece may be written twice"
        self._at = self._file.seek(place)

    def digest(self) -> str:
        """The digest of the whole file, hex; it must be finished."""
        self._file.flush()
        size = os.fstat(self._file.fileno()).st_size
        self._hash_later(-(-size // PIECE) - 1)
        first = _sha256(self._file.fileno(), 0)
        if not self._later:
            return first.hex()
        return hashlib.sha256(b"".join([first, *(piece.result() for piece in self._later)])).hexdigest()

    def _hash_later(self, count: int) -> None:
        """Have the first `count` of the later pieces hashed, those that are not yet."""
        for number in range(len(self._later) + 1, count + 1):
            self._later.append(self._pool.submit(_sha256, self._file.fileno(), number * PIECE))


def _sha256(handle: int, start: int) -> bytes:
    """SHA-256 of the piece of an open file that begins at `start`."""
    sha, at = hashlib.sha256(), start
    while content := os.pread(handle, min(_READ, start + PIECE - at), at):
        sha.update(content)
        at += len(content)
    return sha.digest()
