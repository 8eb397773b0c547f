"""The seam score: 1 where nothing was cut, more where a step was planted; the same whatever the order of blocks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import BLOCK, TILE, BlockIndex, Size, block_region, grid_shape
from wsi_stain.metrics.seams import SeamLines, SeamScore, seam_score

Pixels = NDArray[np.uint8]
SIZE = Size(BLOCK + 1300, BLOCK + 1111)
BLOCKS = [BlockIndex(row, col) for row in (0, 1) for col in (0, 1)]


@pytest.fixture(scope="module")
def source() -> Pixels:
    part = paint_tissue(Size(1400, 1320), seed=1)
    return np.tile(part, (4, 4, 1))[: SIZE.height, : SIZE.width]


def darker(pixels: Pixels, by: int) -> Pixels:
    return np.maximum(pixels.astype(int) - by, 0).astype(np.uint8)


def seam_of_output(
    source: Pixels, output: Pixels, tissue: NDArray[np.float32] | None = None, stride_px: int = 1024
) -> dict[BlockIndex, dict[str, str]]:
    shares = np.ones(grid_shape(SIZE), np.float32) if tissue is None else tissue
    found = {}
    for block in BLOCKS:
        x, y, width, height = block_region(block, SIZE)
        part = slice(y, y + height), slice(x, x + width)
        tiles = tuple(slice(at * 16, at * 16 + 16) for at in block)
        lines = SeamLines((height, width), stride_px)
        for top in (2048, 0, 1024, 3072):  # bands, in any order
            band = slice(y + top, min(y + top + 1024, y + height)), part[1]
            if top < height:
                lines.add(top, source[band], output[band])
        found[block] = lines.measure(shares[tiles])
    return found


def measure_seam(source: Pixels, output: Pixels, **settings: object) -> SeamScore:
    score = seam_score(seam_of_output(source, output, **settings))  # type: ignore[arg-type]
    assert score is not None
    return score


def test_an_unchanged_slide_scores_one(source: Pixels) -> None:
    assert measure_seam(source, source) == SeamScore(score=1, low=1, high=1)


def test_a_change_of_colour_and_contrast_is_no_seam(source: Pixels) -> None:
    changed = np.rint(30 + 0.7 * source).astype(np.uint8)
    score = measure_seam(source, changed)
    assert abs(score.score - 1) < 0.01
    assert score.low <= 1 <= score.high


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_a_step_between_blocks_is_seen(source: Pixels, axis: int) -> None:
    """Only where blocks meet, which no block sees alone: cores as large as a block leave no other line."""
    stepped = source.copy()
    beyond = stepped.swapaxes(0, axis)[BLOCK:]
    beyond[:] = darker(beyond, 12)
    assert measure_seam(source, stepped, stride_px=BLOCK).score > 1.2


def test_steps_between_passes_of_the_generator_are_seen(source: Pixels) -> None:
    stepped = source.copy()
    for row, col in np.ndindex(6, 6):
        if (row + col) % 2:
            part = stepped[row * 1024 : (row + 1) * 1024, col * 1024 : (col + 1) * 1024]
            part[:] = darker(part, 12)
    score = measure_seam(source, stepped)
    assert 1.2 < score.low < score.score < score.high
    assert measure_seam(stepped, source).high < 1 / 1.2, "as surely as it is undone"


def test_the_interval_says_how_lines_differ(source: Pixels) -> None:
    """A step along half of the lines only: pieces of line are many, lines are few."""
    stepped = source.copy()
    for top in range(0, BLOCK, 2048):
        stepped[top : top + 1024] = darker(stepped[top : top + 1024], 12)
    score = measure_seam(source, stepped)
    assert score.score > 1.2 and score.low < 1.2


def test_a_step_that_the_source_has_is_no_fault_of_ours(source: Pixels) -> None:
    stepped = source.copy()
    stepped[:, BLOCK:] = darker(stepped[:, BLOCK:], 12)
    assert measure_seam(stepped, stepped).score == 1


def test_a_step_in_glass_counts_for_nothing(source: Pixels) -> None:
    stepped, tissue = source.copy(), np.ones(grid_shape(SIZE), np.float32)
    stepped[: 3 * TILE, 1024:] = darker(stepped[: 3 * TILE, 1024:], 60)
    tissue[:4] = 0.2
    assert measure_seam(source, stepped, tissue=tissue).score == 1


def test_without_tissue_there_is_no_score(source: Pixels) -> None:
    assert seam_score(seam_of_output(source, source, np.zeros(grid_shape(SIZE), np.float32))) is None
    assert seam_score({}) is None


def test_the_score_does_not_depend_on_the_order_of_blocks(source: Pixels) -> None:
    rough = np.clip(source + np.random.default_rng(0).integers(-9, 9, source.shape), 0, 255).astype(np.uint8)
    found = seam_of_output(source, rough)
    score = seam_score(found)
    assert score is not None and score.low < score.score < score.high
    assert seam_score(dict(reversed(found.items()))) == score
    assert seam_score(json.loads(json.dumps(list(found.values()))) and found) == score


def test_a_receipt_takes_a_few_kilobytes(source: Pixels) -> None:
    (first, *_) = seam_of_output(source, source, stride_px=TILE).values()
    assert len(json.dumps(first)) < 16_000
    (first, *_) = seam_of_output(source, source).values()
    assert len(json.dumps(first)) < 7_000
