"""SCORPION's layout on a made-up tree: a store a scanner, one name for one place, and all directions compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Run
from tests.support.made_store import paint_tissue
from tests.support.patch_files import cut_patches
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import write_json
from wsi_stain.datasets.scorpion import find_scanners
from wsi_stain.store import TileStore
from wsi_stain.store.patches import PATCH_TABLE, from_csv
from wsi_stain.synthetic import SCANNERS, rescan

SIDE = 192


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two slides with four samples each by two scanners; the folders' numbers have gaps, as may be."""
    for slide in (1, 12):
        pixels = paint_tissue(Size(2 * SIDE, 2 * SIDE), slide)
        for scanner, shown in (("AT2", pixels), ("GT450", rescan(pixels, SCANNERS["pink"]))):
            for sample, patch in zip((2, 3, 10, 11), cut_patches(shown, SIDE), strict=True):
                path = tmp_path / "SCORPION" / f"slide_{slide}" / f"sample_{sample}" / f"{scanner}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(patch).save(path, quality=95)
    return tmp_path / "SCORPION"


def test_scanners_get_stores_whose_places_have_one_name(tree: Path, tmp_path: Path, wsi_stain: Run) -> None:
    command = ("import", "scorpion", tree, "--stores", tmp_path / "stores", "--mpp", 0.5, "--workers", 0)
    planned = wsi_stain(*command, "--dry-run")
    assert planned.code == 0 and planned.out.count("slide_12") == 2 and not (tmp_path / "stores").exists()
    ended = wsi_stain(*command)
    assert ended.code == 0, ended.err
    listed = {}
    for scanner in ("AT2", "GT450"):
        store = TileStore(tmp_path / "stores" / f"{scanner}.zarr")
        assert store.slide_ids() == ["slide_1", "slide_12"]
        slide = store["slide_12"]
        assert (slide.record.site, slide.record.patient) == (scanner, "slide_12")
        listed[scanner] = from_csv(slide.table(PATCH_TABLE))
        (first, *_) = listed[scanner]
        expected = np.asarray(Image.open(tree / "slide_12" / first.name / f"{scanner}.jpg"))
        assert first.region and (slide.read(first.region) == expected).all()
    assert listed["AT2"] == listed["GT450"] and len(listed["AT2"]) == 4
    compare_directions(tmp_path, wsi_stain)
    find_places_again(tmp_path, wsi_stain)


def compare_directions(root: Path, wsi_stain: Run) -> None:
    stores = [root / "stores" / f"{scanner}.zarr" for scanner in ("AT2", "GT450")]
    command = ("evaluate", "scanners", *stores, "--out", root / "all", "--workers", 0, "--baseline", "macenko")
    ended = wsi_stain(*command)
    assert ended.code == 0, ended.out + ended.err
    with open(root / "all" / "directions.csv", newline="", encoding="utf-8") as file:
        rows = {(row["source"], row["truth"], row["method"]): float(row["ciede2000"]) for row in csv.DictReader(file)}
    methods = ["untouched", "statistics alone", "macenko", "paired table of the others", "paired oracle"]
    assert list(rows) == [(*pair, name) for pair in (("AT2", "GT450"), ("GT450", "AT2")) for name in methods]
    record = json.loads((root / "all" / "scanners.json").read_text())
    colour = record["methods"]["macenko"]["ciede2000"]
    assert colour["value"] == pytest.approx(np.mean([rows[key] for key in rows if key[2] == "macenko"]), abs=1e-5)
    assert colour["low"] <= colour["value"] <= colour["high"] and colour["change_high"] < 0
    assert [row["slide"] for row in record["slides"]] == 2 * ["slide_1", "slide_12"] and (
        root / "all" / "scanners.png"
    ).exists()
    go_on_after_interruption(root / "all", command, wsi_stain)
    alone = wsi_stain("evaluate", "scanners", stores[0], "--out", root / "all")
    assert alone.code == 1 and "several scanners" in alone.err
    foreign = wsi_stain(*command, "--checkpoint", f"P1000={root / 'c.safetensors'}")
    assert foreign.code == 1 and "no such scanner" in foreign.err


def go_on_after_interruption(out: Path, command: tuple[object, ...], wsi_stain: Run) -> None:
    """A direction that is done is kept; one that is not, or was done with other methods, is made."""
    whole = (out / "scanners.json").read_bytes(), (out / "directions.csv").read_bytes()
    (out / "scanners.json").unlink()
    scores = out / "directions" / "GT450-to-AT2" / "scores.json"
    write_json(scores, {**json.loads(scores.read_text()), "key": "of other methods"})
    ended = wsi_stain(*command)
    assert ended.code == 0, ended.err
    assert "1 of 2 directions are kept from an earlier run" in ended.out and "GT450 to AT2, 2 of 2" in ended.out
    assert whole == ((out / "scanners.json").read_bytes(), (out / "directions.csv").read_bytes())


def find_places_again(root: Path, wsi_stain: Run) -> None:
    stores = [root / "stores" / f"{scanner}.zarr" for scanner in ("AT2", "GT450")]
    ended = wsi_stain(
        *("evaluate", "robustness", *stores, "--registered", "--out", root / "places", "--workers", 0),
        *("--encoder", "shufflenet_v2_x0_5", "--side", 64, "--baseline", "macenko"),
    )
    assert ended.code == 0, ended.out + ended.err
    scores = json.loads((root / "places" / "robustness.json").read_text())["methods"]["macenko"]
    assert 0 <= scores["top1"]["value"] <= scores["top10"]["value"] == 1  # there are eight places
    assert "too few slides to tell" in ended.out


def test_a_picture_that_cannot_be_read_leaves_the_others(tree: Path, tmp_path: Path, wsi_stain: Run) -> None:
    (tree / "slide_1" / "sample_3" / "AT2.jpg").write_bytes(b"nothing")
    command = ("import", "scorpion", tree, "--stores", tmp_path / "stores", "--mpp", 0.5, "--workers", 0)
    ended = wsi_stain(*command)
    assert ended.code == 3 and "sample_3" in ended.out
    assert len(TileStore(tmp_path / "stores" / "GT450.zarr").slide_ids()) == 2


def test_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slide_1").mkdir()
    with pytest.raises(ConfigError, match="<slide>/<sample>/<scanner>"):
        find_scanners(tmp_path)
