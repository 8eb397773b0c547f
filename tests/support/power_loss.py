"""Power cuts, replayed: what a disk is sure to hold at any moment, by what was synced to it.

POSIX promises a file's content once the file was synced, and a name once its directory was. The recorder notes both as
a program goes on; a cut leaves that and nothing else: a name whose file was never synced holds zeros, one whose
directory was not synced since is as it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest


@dataclass(frozen=True)
class Rename:
    """A name that was given: whether its content was on disk then, and whether its directory was synced right after."""

    target: Path
    was_synced: bool
    number: int


@dataclass(frozen=True)
class _Facts:
    ino: int
    size: int
    mtime: int

    @classmethod
    def of(cls, path: Path) -> _Facts:
        facts = path.stat()
        return cls(facts.st_ino, facts.st_size, facts.st_mtime_ns)


@dataclass
class Disk:
    """What is sure to be on disk below a folder, moment by moment.

    Attributes:
        root: The folder.
        directories: By inode what each is sure to hold: contents of files, inodes of folders, by name.
        moments: The same after each sync.
        renames: All renames below the folder.
        synced_directories: The moments at which each directory was synced.
    """

    root: Path
    directories: dict[int, dict[str, bytes | int]] = field(default_factory=dict)
    moments: list[dict[int, dict[str, bytes | int]]] = field(default_factory=list)
    renames: list[Rename] = field(default_factory=list)
    synced: dict[_Facts, bytes] = field(default_factory=dict)
    synced_directories: dict[Path, list[int]] = field(default_factory=dict)

    def on_sync(self, handle: int) -> None:
        """Note what a sync made durable."""
        path, facts = Path(os.readlink(f"/proc/self/fd/{handle}")), os.fstat(handle)
        if not path.is_relative_to(self.root):
            return
        if stat.S_ISDIR(facts.st_mode):
            self.directories[facts.st_ino] = {name: self._content(path / name) for name in os.listdir(path)}
            self.synced_directories.setdefault(path, []).append(len(self.moments))
        else:
            self.synced[_Facts.of(path)] = path.read_bytes()
        self.moments.append(dict(self.directories))

    def _content(self, path: Path) -> bytes | int:
        return path.stat().st_ino if path.is_dir() else self.synced.get(_Facts.of(path), bytes(100))

    def on_rename(self, source: Path, target: Path) -> None:
        """Note a rename that is about to be done."""
        if target.is_relative_to(self.root):
            files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
            known = all(_Facts.of(file) in self.synced for file in files)
            self.renames.append(Rename(target, known, len(self.moments)))

    def write(self, moment: int, folder: Path) -> None:
        """Write what the disk is sure to hold after so many syncs."""
        _write(self.root.stat().st_ino, folder, self.moments[moment])

    def holds(self, moment: int, path: Path) -> bool:
        """Check whether a cut after so many syncs leaves a path, all folders on the way to it included."""
        entry: bytes | int | None = self.root.stat().st_ino
        for name in path.relative_to(self.root).parts:
            entry = self.moments[moment].get(entry, {}).get(name) if isinstance(entry, int) else None
        return entry is not None

    def different_moments(self, apart: str) -> list[int]:
        """List the first moment of each state that a cut may leave, by names and contents of all files.

        Args:
            apart: A name that counts for none.
        """
        first: dict[_Tree, int] = {}
        for moment, directories in enumerate(self.moments):
            first.setdefault(_tree(self.root.stat().st_ino, directories, apart), moment)
        return list(first.values())


_Tree: TypeAlias = "tuple[tuple[str, bytes | _Tree], ...]"


def _tree(inode: int, directories: dict[int, dict[str, bytes | int]], apart: str) -> _Tree:
    """Return what can be found below a folder, by name; a folder that was given no name is not."""
    return tuple(
        (name, _tree(content, directories, apart) if isinstance(content, int) else content)
        for name, content in sorted(directories.get(inode, {}).items())
        if name != apart
    )


def _write(inode: int, folder: Path, directories: dict[int, dict[str, bytes | int]]) -> None:
    folder.mkdir(parents=True)
    for name, content in directories.get(inode, {}).items():
        if isinstance(content, int):
            _write(content, folder / name, directories)
        else:
            (folder / name).write_bytes(content)


@contextmanager
def recorded(root: Path) -> Iterator[Disk]:
    """Record what this process syncs and renames below a folder; everything is done as ever."""
    disk, fsync, rename, replace = Disk(root), os.fsync, os.rename, os.replace

    def recording_fsync(handle: int) -> None:
        fsync(handle)
        disk.on_sync(handle)

    def recording(move: Any) -> Any:
        def move_and_note(source: Any, target: Any, **named: Any) -> None:
            disk.on_rename(Path(source), Path(target))
            move(source, target, **named)

        return move_and_note

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", recording_fsync)
        patch.setattr(os, "rename", recording(rename))
        patch.setattr(os, "replace", recording(replace))
        yield disk
