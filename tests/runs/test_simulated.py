"""A cohort as simulated laboratories show it: a run a laboratory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openslide
import pytest
from rich.console import Console

from pipelines import simulate
from pipelines.shared.config import RunConfig
from tests.laboratories.test_named import write_table
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.errors import ConfigError
from wsi_stain.laboratories.named import load_laboratories
from wsi_stain.normalizers.simulated.laboratory import COLOURS, LaboratoryNormalizer
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import survey_streamed


def make_request(slides: list[Path], out: Path, *names: str) -> simulate.Request:
    return simulate.Request(slides, names, out, RunConfig.model_validate({"executor": {"workers": 0}}))


def test_laboratories_are_found_once_each_and_names_never_meet(tmp_path: Path) -> None:
    write_table(tmp_path / "t.npz")
    (tmp_path / "x.yaml").write_text("laboratories: {mine: {table: t.npz}, purple: {eosin_gain: 2.0}}")
    found = simulate.find_laboratories(make_request([], tmp_path, "purple", "faded", "purple"))
    assert [laboratory.name for laboratory in found] == ["purple", "faded"]
    with pytest.raises(ConfigError, match="Two laboratories have the name purple"):
        simulate.find_laboratories(make_request([], tmp_path, "purple", str(tmp_path / "x.yaml")))
    with pytest.raises(ConfigError, match="There is no laboratory"):
        simulate.find_laboratories(make_request([], tmp_path))


def test_a_slides_table_takes_its_glass_to_the_laboratorys(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", paint(SMALL))
    (faded,) = load_laboratories("faded")
    normalizer = LaboratoryNormalizer(faded)
    with survey_streamed(source, TilingConfig()) as slide:
        artifact = normalizer.prepare(slide, slide.require_stain())
    assert artifact[COLOURS].shape == (33, 33, 33, 3)
    glass = np.full((8, 8, 3), np.round(slide.require_stain().white), np.uint8)
    shown = normalizer.apply(glass, np.ones((1, 1), bool), artifact)
    assert np.abs(shown.astype(int) - normalizer.white).max() <= 1


@pytest.mark.slow
def test_each_laboratory_has_a_run_of_its_own(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", paint(SMALL)).path
    said = io.StringIO()
    request = make_request([source], tmp_path / "out", "pale-eosin", "purple")
    assert simulate.run(request, Console(file=said)) == 0, said.getvalue()
    means = {}
    for name in ("pale-eosin", "purple"):
        with openslide.OpenSlide(tmp_path / "out" / name / "slides" / "a.ome.tif") as pyramid:
            assert pyramid.dimensions == (SMALL.width, SMALL.height)
            means[name] = np.asarray(pyramid.read_region((700, 200), 0, (400, 400)).convert("RGB")).mean()
        assert (tmp_path / "out" / name / "report" / "index.html").exists()
    assert means["purple"] < paint(SMALL)[200:600, 700:1100].mean() < means["pale-eosin"]
