"""A run says of each slide how well it was normalized: seams, what no table explains, how far the table is off."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from pipelines import normalize
from pipelines.normalization.rows import unfitted_colours_warning
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from tests.support.identity import IdentityNormalizer
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import WHITE, paint_tissue, store_slide
from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.geometry import TILE, Size
from wsi_stain.normalizers import load
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.lut import TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.results import SlideRow, read_summary
from wsi_stain.results.finished import load_finished
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, NormalizationCounts

SIZE = Size(7 * TILE, 5 * TILE)


def normalized_row(tmp_path: Path, mode: str, **base: object) -> SlideRow:
    """Normalize a painted slide in this process; its row, as a rerun would find it."""
    store, out = tmp_path / "store", tmp_path / "out"
    if not store.exists():
        store_slide(store, "one", paint_tissue(SIZE, seed=4), mpp=0.5)
    settings = {"mode": mode, "stride_px": 512, "lut_tiles": 20, "lut_size": 9, **base}
    config = RunConfig.model_validate({"executor": {"workers": 0}, "normalize": settings})
    request = normalize.Request(store, write_untrained(tmp_path / "c.safetensors"), None, out, config)
    said = io.StringIO()
    assert normalize.run(request, Console(file=said)) == 0, said.getvalue()
    kept = load_finished(Workspace(out).slide("one"))
    assert kept is not None
    (cells,) = read_summary(out / "summary.csv")
    assert cells["seam"] == (str(round(kept.row.seam.score, 3)) if kept.row.seam else "")
    assert (cells["hallucination"] == "") == (kept.row.hallucination is None)
    assert (cells["table_distance"] == "") == (kept.row.table_distance is None)
    contrast = kept.row.nuclei.contrast_kept if kept.row.nuclei else None
    assert cells["nuclear_contrast"] == ("" if contrast is None else str(round(contrast, 3)))
    return kept.row


def picture(row: SlideRow) -> NDArray[np.uint8]:
    assert row.hallucination is not None and row.hallucination_p95 is not None
    return np.asarray(Image.open(io.BytesIO(row.hallucination)))


def test_a_generated_slide_is_judged_and_the_judgement_kept(tmp_path: Path) -> None:
    row = normalized_row(tmp_path, "generator")
    assert row.seam is not None and row.seam.low <= row.seam.score <= row.seam.high
    assert picture(row).shape == (5, 7) and picture(row).all()
    assert row.hallucination_p95 == pytest.approx(np.percentile(picture(row), 95) / 10)
    assert row.table_distance is None


def test_a_table_is_judged_by_its_distance_to_the_generator(tmp_path: Path) -> None:
    row = normalized_row(tmp_path, "lut")
    assert row.seam is not None and row.status == "done" and row.reason == ""
    assert row.table_distance is not None and row.table_distance > 0
    assert row.hallucination is None and row.hallucination_p95 is None


def test_colours_that_a_table_was_not_fitted_to_are_told() -> None:
    config, prepared = NormalizeConfig(mode="lut", lut_outside=0.01), {"residual": 1.0, "outside": 0.034}
    assert "3.4% of the tissue" in unfitted_colours_warning(prepared, config)
    assert unfitted_colours_warning(prepared, config.model_copy(update={"mode": "generator"})) == ""
    assert (
        unfitted_colours_warning(prepared | {"outside": 0.01}, config)
        == unfitted_colours_warning(prepared | {"outside": None}, config)
        == ""
    )


class Contrast(GeneratorPredictor):
    """In a generator's place: another tone curve, for the whole slide alike, which is no fault."""

    halo = step = 32
    shrink, stain_passes = 1, 0

    def __init__(self) -> None:
        pass

    def check_fits(self, slide: TiledSlide) -> None:
        pass

    def predict_all(self, windows: Iterable[RgbImage], statistics: StainStatistics, crop: int) -> Iterator[RgbImage]:
        for window in windows:
            inner = window[crop:-crop, crop:-crop]
            yield np.stack([inner, add_contrast(inner)])


def add_contrast(pixels: RgbImage) -> RgbImage:
    return np.rint(255 * (pixels / 255.0) ** 1.5).astype(np.uint8)


class Planting(IdentityNormalizer):
    """A change of contrast, and nuclei that nobody saw in one tile."""

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        return TableFit(Contrast(), self.white, 9, 20).prepare(slide, statistics)

    def apply(
        self, pixels: RgbImage, needed: NDArray[np.bool_], artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        made = add_contrast(pixels)  # all five rows of tiles
        tile = made[2 * TILE : 3 * TILE, 4 * TILE : 5 * TILE]
        for row, col in ((30, 40), (90, 180), (150, 70), (200, 200)):
            tile[row : row + 20, col : col + 20] = (85, 60, 130)
        return made


def test_a_planted_hallucination_stands_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    white = tuple(int(value) for value in add_contrast(np.array(WHITE)))
    monkeypatch.setitem(load.FACTORIES, "generator", lambda *_: Planting(white))  # type: ignore[arg-type]
    found = picture(normalized_row(tmp_path, "generator")).astype(int)
    assert np.unravel_index(found.argmax(), found.shape) == (2, 4)
    assert found[2, 4] >= 50
    found[2, 4] = 0
    assert found.max() <= 15
