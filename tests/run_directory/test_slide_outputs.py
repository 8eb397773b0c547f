"""Which outputs of a slide are kept, which are made again, and which are removed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from pipelines.run_directory.slide_outputs import SlideOutputs
from pipelines.shared.formats import Format
from wsi_stain.core.receipts import Receipt, file_product, partial_directory, write_receipt


def outputs_of(out: Path, key: str = "key", formats: tuple[Format, ...] = ("ome-tiff", "dicom")) -> SlideOutputs:
    return SlideOutputs(out, out / "work" / "slides" / "a", PurePosixPath("slides/x/a"), formats, key)


@pytest.fixture
def finished(tmp_path: Path) -> SlideOutputs:
    """A slide with its TIFF, its receipt and its row."""
    outputs = outputs_of(tmp_path)
    outputs.tiff.path.parent.mkdir(parents=True)
    outputs.tiff.path.write_bytes(b"pixels")
    outputs.folder.mkdir(parents=True)
    write_receipt(outputs.tiff.receipt, Receipt(key="key", product=file_product(outputs.tiff.path)))
    outputs.row.write_text("{}")
    return outputs


def test_outputs_lie_below_slides_and_their_receipts_in_the_slide_s_folder(tmp_path: Path) -> None:
    outputs = outputs_of(tmp_path)
    assert outputs.names == ["slides/x/a.ome.tif", "slides/x/a.dicom"]
    assert outputs.tiff.path == tmp_path / "slides" / "x" / "a.ome.tif"
    assert outputs.tiff.receipt == outputs.folder / "ome-tiff.json"
    assert not outputs.has_any and not outputs.has_stale and outputs.missing == ["ome-tiff", "dicom"]


def test_an_output_is_kept_while_its_key_and_its_size_hold(finished: SlideOutputs, tmp_path: Path) -> None:
    assert finished.has_any and not finished.has_stale and finished.missing == ["dicom"]
    other = outputs_of(tmp_path, "another")
    assert other.has_stale and other.missing == ["ome-tiff", "dicom"]
    finished.tiff.path.write_bytes(b"other pixels")
    assert finished.has_stale and finished.missing == ["ome-tiff", "dicom"]


def test_without_a_requested_tiff_an_intermediate_serves_unless_one_is_valid(
    finished: SlideOutputs, tmp_path: Path
) -> None:
    only_dicom = outputs_of(tmp_path, formats=("dicom",))
    assert only_dicom.tiff.path == finished.tiff.path
    finished.tiff.path.unlink()
    assert only_dicom.tiff.path.parent == only_dicom.blocks


def test_what_has_another_key_is_removed_and_what_is_valid_stays(finished: SlideOutputs, tmp_path: Path) -> None:
    finished.remove_stale()
    assert finished.tiff.path.exists() and finished.tiff.receipt.exists() and not finished.row.exists()
    outputs_of(tmp_path, "another").remove_stale()
    assert not finished.tiff.path.exists() and not finished.tiff.receipt.exists() and not finished.has_any


def test_a_receipt_or_a_row_alone_is_something_to_remove(finished: SlideOutputs) -> None:
    finished.tiff.path.unlink()
    finished.row.unlink()
    assert finished.has_any
    finished.remove_stale()
    assert not finished.has_any


def test_intermediates_are_removed_and_outputs_stay(finished: SlideOutputs) -> None:
    finished.blocks.mkdir()
    partial = partial_directory(finished.output("ome-zarr").path)
    partial.mkdir()
    finished.remove_intermediates()
    assert not finished.blocks.exists() and not partial.exists()
    assert finished.tiff.path.exists() and finished.row.exists()


def test_what_killed_workers_left_of_a_slide_is_removed_and_another_slide_s_stays(finished: SlideOutputs) -> None:
    slides = finished.tiff.path.parent
    own = [slides / ".a.ome.tif.12-34.partial", finished.folder / ".row.json.5-6.partial"]
    others = [slides / ".a.b.ome.tif.7-8.partial", slides / ".b.ome.tif.9-0.partial"]
    for path in (*own, *others):
        path.touch()
    finished.remove_intermediates()
    assert not any(path.exists() for path in own) and all(path.exists() for path in others)
    assert finished.tiff.path.exists() and finished.row.exists()
