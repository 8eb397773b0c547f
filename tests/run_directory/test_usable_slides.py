"""Which slides of a store can be used: a damaged one is named and leaves the others alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.shared.config import load_config
from pipelines.train import Request, plan
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import Size
from wsi_stain.store import TileStore


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        store_slide(tmp_path, name, paint_tissue(Size(600, 300)))
    return tmp_path


def smaller_map(slide: Path) -> None:
    TileStore(slide.parent).writer(slide.name).write_map("kept", np.ones((1, 1), bool))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda slide: (slide / "zarr.json").write_bytes((slide.parent / "a" / "zarr.json").read_bytes()), "record"),
        (lambda slide: shutil.rmtree(slide / "maps" / "tissue"), "maps/tissue is missing"),
        (lambda slide: (slide / "0" / "zarr.json").unlink(), "compression"),
        (smaller_map, "maps of"),
    ],
    ids=["record", "map", "image", "another map"],
)
def test_a_damaged_slide_is_named_and_the_others_stay(
    store: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(store / "b")
    found = find_usable_slides(store)
    assert [slide.record.slide_id for slide in found.slides] == ["a"]
    assert list(found.damaged) == ["b"]
    assert message in str(found.damaged["b"])


def test_nothing_complete_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no complete slide"):
        find_usable_slides(TileStore.create(tmp_path).path)


def test_training_on_damaged_slides_only_says_why(store: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.rmtree(store / name / "maps")
    with pytest.raises(StoreError, match="is there to train on") as caught:
        plan(Request([store], tmp_path / "out", load_config("small")))
    assert "maps/kept is missing" in caught.value.remedy
