"""Where outputs go, and that no two slides meet there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.workspace import pyramid_names
from wsi_stain.slides import SlideSource


def sources(*relatives: str) -> list[SlideSource]:
    return [
        SlideSource(path=Path("/slides") / name, slide_id=f"id{number}", relative=name)
        for number, name in enumerate(relatives)
    ]


@pytest.mark.parametrize(
    ("relatives", "expected"),
    [
        pytest.param(["a.svs"], ["slides/a.ome.tif"], id="plain"),
        pytest.param(["a/x.svs", "b/x.svs"], ["slides/a/x.ome.tif", "slides/b/x.ome.tif"], id="same name, two folders"),
        pytest.param(["x.svs", "x.tif"], ["slides/x.svs.ome.tif", "slides/x.tif.ome.tif"], id="same stem"),
        pytest.param(["x.svs", "X.tif"], ["slides/x.svs.ome.tif", "slides/X.tif.ome.tif"], id="case-blind disks"),
        pytest.param(["x.ome.tif"], ["slides/x.ome.tif"], id="already ome"),
        pytest.param(
            ["a.svs", "a.tif", "a.svs.tif"],
            ["slides/id0.ome.tif", "slides/a.tif.ome.tif", "slides/id2.ome.tif"],
            id="names that meet again",
        ),
        pytest.param(["v1.2.svs"], ["slides/v1.2.ome.tif"], id="dots in the name"),
    ],
)
def test_names_follow_the_slides_and_never_meet(relatives: list[str], expected: list[str]) -> None:
    assert [str(name) for name in pyramid_names(sources(*relatives)).values()] == expected
