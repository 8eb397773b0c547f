"""What stands in a run's directory may be anybody's: rows, pictures and arrays are looked at before they count."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from pipelines import report, verify, view
from tests.support.commands import Run
from tests.support.made_store import paint_tissue
from wsi_stain.core import html
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import ExecutorConfig
from wsi_stain.results import SlideRow
from wsi_stain.results.finished import load_finished
from wsi_stain.store.artifact import load_artifact
from wsi_stain.synthetic import write_slide


def encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def claimed_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


PLAIN = Image.new("RGB", (300, 200), (200, 100, 150))
HOSTILE_PICTURES = {
    "nothing": b"",
    "text": b"<svg onload=alert(1)>",
    "cut": encoded(PLAIN, "JPEG")[:-300],
    "another format": encoded(PLAIN, "TIFF"),
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "above the limit": claimed_png(5000, 5000),
    "100 Mpx": claimed_png(10_000, 10_000),
    "4 Gpx": claimed_png(65_000, 65_000),
}


@pytest.mark.parametrize("picture", HOSTILE_PICTURES.values(), ids=HOSTILE_PICTURES)
def test_a_hostile_picture_is_refused_and_shown_as_damaged(picture: bytes) -> None:
    with pytest.raises(OutputError, match="cannot be shown"):
        html.open_picture(picture)
    with Image.open(io.BytesIO(html.shrink_to_webp(picture, 640, 50))) as shown:
        assert (shown.format, shown.size) == ("WEBP", (160, 120))


@pytest.mark.parametrize("output", ["/etc/passwd", "../secret.ome.tif", "slides/../../x.ome.tif"])
def test_no_row_links_out_of_the_output_directory(output: str) -> None:
    for named in ({"output": output}, {"other_outputs": [output]}):
        with pytest.raises(ValidationError, match="leads out of the output directory"):
            SlideRow.model_validate({"slide": "a", "slide_id": "a", "status": "done", **named})


@pytest.mark.parametrize("slide_id", ["..", ".", "/etc", "../../other/work/slides/a"])
def test_no_row_is_looked_for_elsewhere(slide_id: str) -> None:
    with pytest.raises(ValidationError, match="no name of a folder"):
        SlideRow.model_validate({"slide": "a", "slide_id": slide_id, "status": "done"})


def compressed(path: Path) -> None:
    np.savez_compressed(path, kept=np.zeros((100, 100), bool))


def of_a_terabyte(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kept.npy", header.getvalue())


def encrypted(path: Path) -> None:
    np.savez(path, kept=np.zeros(3))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02\x2d\x03\x2d\x00\x00", b"PK\x01\x02\x2d\x03\x2d\x00\x01"))
    assert path.read_bytes() != content


def a_bare_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("make", [compressed, of_a_terabyte, encrypted, a_bare_array])
def test_hostile_arrays_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "grid.npz")
    with pytest.raises(OutputError, match="not the artifact of a slide"):
        load_artifact(tmp_path / "grid.npz")


def test_a_row_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "row.json", "wb") as file:
        file.truncate(2**32)
    assert load_finished(tmp_path) is None


def change_row(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = out / "work" / "slides" / "a.svs" / "row.json"
    saved = json.loads(path.read_text())
    change(saved["row"])
    path.write_text(json.dumps(saved))


def test_every_command_that_shows_a_run_stands_a_hostile_row(tmp_path: Path, wsi_stain: Run) -> None:
    write_slide(tmp_path / "a.svs", paint_tissue(Size(600, 500)), 0.5, style="svs")
    out = tmp_path / "out"
    command = ("run", tmp_path / "a.svs", "-r", tmp_path / "a.svs", "--method", "macenko", "-o", out, "-j", 0)
    assert wsi_stain(*command).code == 0
    whole = (out / "slides" / "a.ome.tif").read_bytes()
    pictures = ["before", "after", "overlay"]
    bomb = base64.b64encode(HOSTILE_PICTURES["4 Gpx"]).decode()

    change_row(out, lambda row: row.update({name: bomb for name in pictures}))
    assert report.run(out, Console(file=io.StringIO())) == 0
    said = io.StringIO()
    assert verify.run(verify.Request(out, [], ExecutorConfig(workers=0)), Console(file=said, width=300)) != 0
    assert "cannot be shown" in said.getvalue()

    change_row(out, lambda row: row.update({"output": "../a.svs", "other_outputs": ["/etc/passwd"]}))
    assert report.run(out, Console(file=io.StringIO())) == 0
    assert "/etc/passwd" not in (out / "report" / "index.html").read_text()
    (case,) = view.plan(view.Request(out), print)
    assert [picture.path for picture in case.pictures] == [out / "slides" / "a.ome.tif"]

    assert wsi_stain(*command).code == 0
    assert (out / "slides" / "a.ome.tif").read_bytes() == whole
    assert verify.run(verify.Request(out, [], ExecutorConfig(workers=0)), Console(file=io.StringIO())) == 0
