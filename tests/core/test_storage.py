"""What is no regular file is never opened: every test here would wait for ever if it were."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.dicom_files import write_dicom
from tests.support.slide_files import noise, write_slide
from wsi_stain.core.errors import SlideError
from wsi_stain.core.journal import read_json
from wsi_stain.core.storage import odd_kind, open_file
from wsi_stain.datasets.pictures import PictureError, digest, read_picture
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.slides.slide import Slide


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with one slide, and one thing that is none under each name that a search looks into."""
    write_slide(tmp_path / "a.tif", [noise(70, 50)])
    for name in ("x.svs", "x.dcm", "IM000001", "1.2.3", "x.mrxs", "x.csv"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    yield tmp_path


def test_kinds_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "file").write_bytes(b"")
    names = ("fifo", "link", "socket", "file", "nothing", ".")
    assert [odd_kind(tmp_path / name) for name in names] == ["a FIFO", "a FIFO", "a socket", "", "", "a directory"]
    assert odd_kind(Path("/dev/zero")) == "a device"


def test_a_search_comes_to_its_end_and_each_becomes_a_row_that_is_refused(folder: Path) -> None:
    slides = {slide.relative: slide.path for slide in find_slides([folder])}
    assert set(slides) == {"a.tif", "x.svs", "x.dcm", "x.mrxs", "zero.tif"}
    for name, path in slides.items():
        if name == "a.tif":
            Slide(path).close()
            continue
        with pytest.raises(SlideError, match=r"it is a (FIFO|device), expected a regular file"):
            Slide(path)


@pytest.mark.parametrize("name", ["x.svs", "x.dcm", "IM000001", "x.csv"])
def test_one_that_is_named_is_refused_as_well(folder: Path, name: str) -> None:
    (slide,) = find_slides([folder / name])
    with pytest.raises(SlideError, match="it is a FIFO, expected a regular file"):
        Slide(slide.path)


@pytest.mark.parametrize(
    "make",
    [lambda folder: write_dicom(folder / "a.dcm", "1.2.3", padding=100), lambda folder: mrxs(folder)],
    ids=["DICOM", "MRXS"],
)
def test_nor_is_one_that_openslide_would_open_beside_a_slide(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Of a DICOM slide it looks into all files of the directory, of an MRXS slide into those of its own."""
    path = make(tmp_path)
    os.mkfifo((tmp_path if path.suffix == ".dcm" else path.with_suffix("")) / "Data0001.dat")
    with pytest.raises(SlideError, match=r"Data0001.dat cannot be opened: it is a FIFO"):
        Slide(path)


def test_a_patch_is_a_regular_file_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(PictureError, match="is a FIFO"):
        read_picture(tmp_path / "x.png")
    assert digest([("x.png", tmp_path / "x.png")])["size"] == 0


def mrxs(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "a" / "Slidedat.ini").write_text("[GENERAL]\n")
    (folder / "a.mrxs").write_bytes(b"")
    return folder / "a.mrxs"


def test_neither_a_shard_nor_a_receipt_that_is_a_fifo_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_json(tmp_path / "fifo") is None
    shard = open_file(tmp_path / "fifo")
    with pytest.raises(OSError, match="Illegal seek"):
        shard.read_end(10)
    shard.close()
