"""Where outputs go, and that no two slides meet there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.run_directory.workspace import output_stems
from wsi_stain.slides.listing.find import SlideSource


def sources(*relatives: str) -> list[SlideSource]:
    return [
        SlideSource(path=Path("/slides") / name, slide_id=f"id{number}", relative=name)
        for number, name in enumerate(relatives)
    ]


@pytest.mark.parametrize(
    ("relatives", "expected"),
    [
        pytest.param(["a.svs"], ["slides/a"], id="plain"),
        pytest.param(["a/x.svs", "b/x.svs"], ["slides/a/x", "slides/b/x"], id="same name, two folders"),
        pytest.param(["x.svs", "x.tif"], ["slides/x.svs", "slides/x.tif"], id="same stem"),
        pytest.param(["x.svs", "X.tif"], ["slides/x.svs", "slides/X.tif"], id="case-blind disks"),
        pytest.param(["x"], ["slides/x"], id="already ome"),
        pytest.param(
            ["a.svs", "a.tif", "a.svs.tif"],
            ["slides/id0", "slides/a.tif", "slides/id2"],
            id="names that meet again",
        ),
        pytest.param(["v1.2.svs"], ["slides/v1.2"], id="dots in the name"),
        pytest.param(
            ["a.svs", "A.dicom/1.dcm", "b.ome.zarr/deep/2.svs", "b.svs"],
            ["slides/a.svs", "slides/A.dicom/1", "slides/b.ome.zarr/deep/2", "slides/b.svs"],
            id="a folder called like a product",
        ),
    ],
)
def test_names_follow_the_slides_and_never_meet(relatives: list[str], expected: list[str]) -> None:
    assert [str(name) for name in output_stems(sources(*relatives), portable=False).values()] == expected
