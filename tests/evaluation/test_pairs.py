"""`evaluate pairs` on pairs whose truth is known: synthetic tissue that two laboratories stained."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Run
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from tests.support.patch_files import cut_patches, save
from wsi_stain.core.geometry import Size, TileIndex
from wsi_stain.evaluation.paired_table import by_other_patches
from wsi_stain.evaluation.pairs import oracle, summarize, tile_scores
from wsi_stain.evaluation.tile_choice import choose_scored_tiles, rich_blocks
from wsi_stain.stain.statistics import slide_statistics
from wsi_stain.synthetic import LABORATORIES, SCANNERS, render_tissue, rescan, stain_tissue, write_slide

SIZE = Size(800, 800)
QUICK = ("--baseline", "macenko")
"""One classical method stands for all."""


@pytest.fixture(scope="module")
def looks() -> tuple[np.ndarray, np.ndarray]:
    """One tissue in the look of another laboratory, and in the reference's."""
    tissue = render_tissue(SIZE, 0.5, 3)
    other, reference = (stain_tissue(tissue, LABORATORIES[name], 3) for name in ("other", "reference"))
    return other, reference


@pytest.fixture
def slides(looks: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> tuple[Path, Path]:
    root = tmp_path / "slides"
    for name, pixels in zip(("a", "b"), looks, strict=True):
        write_slide(root / name / "nested" / "one.svs", pixels, 0.5, style="svs")
    return root / "a", root / "b"


def rows_of(out: Path, name: str = "pairs") -> dict[str, dict[str, str]]:
    with open(out / f"{name}.csv", newline="", encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_slides_are_compared_with_every_row(slides: tuple[Path, Path], tmp_path: Path, wsi_stain: Run) -> None:
    checkpoint = write_untrained(tmp_path / "c.safetensors", mpp=0.5)
    ended = wsi_stain(
        *("evaluate", "pairs", *slides, "--out", tmp_path / "out", "--workers", 0),
        *("--checkpoint", checkpoint, "--mode", "lut", "--normalized", slides[1]),
    )
    assert ended.code == 0, ended.err
    rows = rows_of(tmp_path / "out")
    assert list(rows) == [
        "untouched",
        "statistics alone",
        "reinhard",
        "macenko",
        "vahadane",
        "wsi-stain lut",
        "normalized",
        "paired oracle",
    ]
    error = {name: float(row["ciede2000"]) for name, row in rows.items()}
    assert error["normalized"] < error["paired oracle"] < error["macenko"] < error["untouched"]
    assert error["normalized"] < 0.5  # the truth itself, but for JPEG
    assert error["wsi-stain lut"] > error["macenko"]  # nobody trained it
    assert float(rows["untouched"]["gap_ciede2000"]) == 0
    assert float(rows["paired oracle"]["gap_psnr"]) == 1
    assert float(rows["untouched"]["structure"]) == 1
    assert float(rows["untouched"]["nuclear_contrast"]) == 1
    assert float(rows["normalized"]["nuclear_contrast_truth"]) == pytest.approx(1, abs=0.03)
    assert float(rows["normalized"]["nuclear_dark_truth"]) == pytest.approx(0, abs=0.01)
    assert error["statistics alone"] < error["untouched"]
    record = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert record["slides"][0]["slide"] == "nested/one"
    assert record["slides"][0]["shift_px"] < 0.5
    assert "warning" not in ended.out
    with Image.open(tmp_path / "out" / "pairs.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10
    with Image.open(next((tmp_path / "out" / "strips").glob("*.png"))) as strip:
        assert strip.width > 8 * strip.height


def test_patches_are_paired_by_name(looks: tuple[np.ndarray, np.ndarray], tmp_path: Path, wsi_stain: Run) -> None:
    for folder, pixels in zip(("a", "b", "made"), (*looks, looks[1]), strict=True):
        for number, patch in enumerate(cut_patches(pixels, 250)):
            save(tmp_path / folder / f"{number:03}.png", patch)
    command = ["evaluate", "pairs", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", "--workers", 0, *QUICK]
    refused = wsi_stain(*command)
    assert refused.code == 1
    assert "--mpp" in refused.err
    assert wsi_stain(*command, "--mpp", 0.5, "--normalized", tmp_path / "made").code == 0
    rows = rows_of(tmp_path / "out")
    assert float(rows["normalized"]["psnr"]) == 99  # equal
    assert float(rows["normalized"]["gap_ciede2000"]) > 1  # better than any table
    assert float(rows["paired table of the others"]["ciede2000"]) > float(rows["paired oracle"]["ciede2000"])
    assert float(rows["macenko"]["ciede2000"]) < float(rows["untouched"]["ciede2000"])


def test_patches_that_not_all_have_are_named_and_left_out(
    looks: tuple[np.ndarray, np.ndarray], tmp_path: Path, wsi_stain: Run
) -> None:
    """Patches lie in rows, so that a missing one moves all that follow: each is looked up by its name."""
    for folder, pixels in zip(("a", "b"), looks, strict=True):
        for number, patch in enumerate(cut_patches(pixels, 250)):
            save(tmp_path / folder / f"{number:03}.jpg", patch)
    command = ["evaluate", "pairs", tmp_path / "a", tmp_path / "b", "--workers", 0, "--mpp", 0.5, *QUICK]
    for folder, number in (("a", 1), ("b", 3), ("b", 4), ("b", 5)):
        (tmp_path / folder / f"{number:03}.jpg").unlink()
    save(tmp_path / "b" / "000.jpg", cut_patches(looks[1], 200)[0])
    (tmp_path / "made").mkdir()
    for path in (tmp_path / "b").iterdir():  # `normalize` writes PNG
        Image.open(path).save(tmp_path / "made" / f"{path.stem}.png")
    ended = wsi_stain(*command, "--normalized", tmp_path / "made", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "5 patches are left out" in ended.out and "and 2 more" in ended.out and "apart" not in ended.out
    rows = rows_of(tmp_path / "out")
    assert float(rows["normalized"]["psnr"]) == 99  # equal
    (record,) = json.loads((tmp_path / "out" / "pairs.json").read_text())["slides"]
    assert record["shift_px"] < 0.5
    for path in (tmp_path / "b").glob("00[2678].jpg"):
        path.unlink()
    refused = wsi_stain(*command, "--out", tmp_path / "none")
    assert refused.code == 1
    assert "No patch of" in refused.err and "same name" in refused.err


def test_sources_of_one_group_in_a_slide_list_share_their_stain(
    looks: tuple[np.ndarray, np.ndarray], slides: tuple[Path, Path], tmp_path: Path, wsi_stain: Run
) -> None:
    other, reference = looks
    for folder, pixels in zip(slides, (255 - (255 - other) // 2, reference), strict=True):  # one much paler source
        write_slide(folder / "nested" / "two.svs", pixels, 0.5, style="svs")
    listed = slides[0] / "list.csv"
    listed.write_text("slide,group\nnested/one.svs,lab\nnested/two.svs,lab\n")
    command = ["evaluate", "pairs", "--workers", 0, *QUICK]
    shared = wsi_stain(*command, listed, slides[1], "--out", tmp_path / "shared")
    alone = wsi_stain(*command, slides[0], slides[1], "--out", tmp_path / "alone")
    pooled = wsi_stain(*command, slides[0], slides[1], "--out", tmp_path / "pooled", "--pool", "folder")
    assert shared.code == alone.code == pooled.code == 0, shared.err
    assert "2 sources of the group lab" in shared.out and "together" not in alone.out
    assert "2 sources of the group nested" in pooled.out
    rows = {out: rows_of(tmp_path / out) for out in ("shared", "alone", "pooled")}
    assert rows["shared"] == rows["pooled"]
    for method in ("statistics alone", "macenko"):
        assert float(rows["shared"][method]["ciede2000"]) > 1.2 * float(rows["alone"][method]["ciede2000"])


def test_the_table_of_the_others_knows_nothing_of_the_pair_itself(
    looks: tuple[np.ndarray, np.ndarray], tmp_path: Path, wsi_stain: Run
) -> None:
    reference = looks[1]
    for name, truth in (("one", reference), ("two", reference), ("odd", rescan(reference, SCANNERS["pink"]))):
        store_slide(tmp_path / "a.zarr", name, rescan(reference, SCANNERS["blue"]))
        store_slide(tmp_path / "b.zarr", name, truth)
    command = ["evaluate", "pairs", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "out", "--workers", 0]
    assert wsi_stain(*command, *QUICK).code == 0
    slides = json.loads((tmp_path / "out" / "pairs.json").read_text())["slides"]
    error = {slide["slide"]: slide["methods"]["paired table of the others"]["ciede2000"] for slide in slides}
    best = {slide["slide"]: slide["methods"]["paired oracle"]["ciede2000"] for slide in slides}
    assert error["odd"] > 4 * best["odd"]
    assert error["one"] == error["two"] < error["odd"]


def test_a_patch_is_never_in_the_table_that_it_goes_through() -> None:
    colours = [np.full((40, 40, 3), value, np.uint8) for value in (100, 150, 200)]
    same = [np.full((40, 40, 3), 120, np.uint8)] * 3
    white = (240.0, 240.0, 240.0)
    made = by_other_patches(same, colours, white, white)
    assert [round(float(patch.mean())) for patch in made] == pytest.approx([175, 150, 125], abs=3)


def test_pairs_of_stores_that_are_shifted_are_warned_of(tmp_path: Path, wsi_stain: Run) -> None:
    pixels = paint_tissue(SIZE, 4)
    store_slide(tmp_path / "a.zarr", "one", rescan(pixels, SCANNERS["pink"]))
    store_slide(tmp_path / "b.zarr", "one", np.roll(pixels, 5, axis=1))
    command = ["evaluate", "pairs", tmp_path / "a.zarr", tmp_path / "b.zarr", "--workers", 0, *QUICK]
    one, two = (wsi_stain(*command, "--out", tmp_path / out) for out in ("one", "two"))
    assert one.code == two.code == 0, one.err
    assert re.search(r"lie (4\.9|5\.0|5\.1) px apart", one.out)
    for name in ("pairs.csv", "pairs.json", "pairs.png"):  # the same command gives the same bytes
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_bad_pair_leaves_the_others_alone(tmp_path: Path, wsi_stain: Run) -> None:
    pixels = paint_tissue(SIZE, 4)
    for name in ("one", "two", "=alone"):
        store_slide(tmp_path / "a.zarr", name, rescan(pixels, SCANNERS["pink"]))
    store_slide(tmp_path / "b.zarr", "one", pixels)
    store_slide(tmp_path / "b.zarr", "two", pixels[:600])
    ended = wsi_stain(
        *("evaluate", "pairs", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "out", "--workers", 0),
        *QUICK,
    )
    assert ended.code == 3
    assert "two: left out" in ended.out and "registered" in ended.out
    assert "=alone: left out" in ended.out
    assert len(json.loads((tmp_path / "out" / "pairs.json").read_text())["slides"]) == 1


def test_strangers_are_refused(tmp_path: Path, wsi_stain: Run) -> None:
    store_slide(tmp_path / "a.zarr", "w", paint_tissue(SIZE, 4))
    for name in ("x", "y"):
        store_slide(tmp_path / "b.zarr", name, paint_tissue(SIZE, 4))
    ended = wsi_stain(
        "evaluate", "pairs", tmp_path / "a.zarr", tmp_path / "b.zarr", "--out", tmp_path / "out", "--workers", 0
    )
    assert ended.code == 1
    assert "has its pair" in ended.err and "same name" in ended.err


def test_scores_of_the_truth_itself() -> None:
    image = paint_tissue(Size(256, 256))
    scores = tile_scores(image, image, rescan(image, SCANNERS["pink"]))
    assert (scores["psnr"], scores["ciede2000"], scores["lab_wasserstein_64"]) == (99, 0, 0)
    assert scores["ssim"] == pytest.approx(1)
    assert scores["texture"] == pytest.approx(1)
    assert scores["structure"] < scores["ssim"] - 0.001


def test_the_oracle_is_nearly_the_truth_where_a_table_can_be() -> None:
    truth = paint_tissue(Size(512, 512))
    shown = rescan(truth, SCANNERS["faded"])
    own, wanted = (slide_statistics(p.reshape(-1, 3), (240.0, 240.0, 240.0), "glass") for p in (shown, truth))
    (made,) = oracle([shown], [truth], own, wanted)
    assert tile_scores(made, truth, shown)["ciede2000"] < 0.2 * tile_scores(shown, truth, shown)["ciede2000"]


def test_the_worst_decile_is_over_tiles_of_all_pairs() -> None:
    flat = dict.fromkeys(("psnr", "ssim", "lab_wasserstein_64", "structure", "texture"), [1.0] * 10)
    scores = [{"ciede2000": [1.0] * 9 + [worst], **flat} for worst in (11.0, 21.0)]
    receipts = [{"scores": {"untouched": each, "paired oracle": each}} for each in scores]
    row = summarize(receipts)["untouched"]
    assert row["ciede2000"] == pytest.approx((18 + 32) / 20)
    assert row["worst_decile"] == 16
    assert np.isnan(row["gap_ciede2000"])


def test_blocks_rich_in_tissue_are_chosen_by_their_places() -> None:
    tissue = np.zeros((12, 9), np.float32)
    tissue[4:8, :8] = 1
    assert sorted(rich_blocks(tissue, 10)) == [TileIndex(4, 0), TileIndex(4, 4)]
    assert rich_blocks(tissue, 1) == rich_blocks(tissue, 10)[:1]
    assert rich_blocks(np.full((2, 3), 0.3, np.float32), 10) == [TileIndex(0, 0)]
    assert rich_blocks(np.zeros((4, 4), np.float32), 10) == []


def test_judged_tiles_lie_wholly_within_the_slide(tmp_path: Path) -> None:
    tissue = np.ones((5, 6), np.float32)
    tissue[0, 0] = 0.1
    slide = store_slide(tmp_path / "s.zarr", "a", paint_tissue(Size(1400, 1100)), tissue)
    tiles = choose_scored_tiles(slide, 10)
    assert TileIndex(0, 0) not in tiles and TileIndex(0, 1) in tiles
    assert max(tile.row for tile in tiles) == 3 and max(tile.col for tile in tiles) == 3
