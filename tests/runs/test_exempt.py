"""A whole run on a slide with a black border, a shadow and ink: these are not normalized, and verification knows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from scipy.ndimage import gaussian_filter

from tests.support.commands import Run
from tests.support.made_checkpoint import WHITE
from tests.support.made_run import run_unchanged
from wsi_stain.core.geometry import Size
from wsi_stain.results.finished import load_finished
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.slide import write_slide
from wsi_stain.synthetic.tissue import render_tissue

SIZE = Size(2304, 1792)
INK = np.array((1.15, 0.75, 0.2))


def test_dark_becomes_glass_ink_stays_and_verification_knows(tmp_path: Path, wsi_stain: Run) -> None:
    pixels = np.full((SIZE.height, SIZE.width, 3), 242, np.uint8)
    pixels[300:1500, 300:2000] = stain_tissue(render_tissue(Size(1700, 1200), 0.5, 7), LABORATORIES["other"], 7)
    od = np.zeros((SIZE.height, SIZE.width, 3))
    od[800:1000] = INK
    od[1650:] = 0.64
    pixels = (pixels * np.exp(-gaussian_filter(od, (3, 3, 0)))).astype(np.uint8)
    pixels[:, :250] = 5
    source = tmp_path / "slides" / "dark.svs"
    source.parent.mkdir()
    write_slide(source, pixels, 0.5, style="svs")
    made = run_unchanged(source, tmp_path / "out")
    with openslide.OpenSlide(made.pyramid) as pyramid:
        after = np.asarray(pyramid.read_region((0, 0), 0, tuple(SIZE)).convert("RGB")).astype(int)
    assert np.abs(after[:, :240] - WHITE).max() <= 2  # the border, in tiles with tissue and in those without
    assert np.abs(after[1660:] - WHITE).max() <= 2  # the shadow
    stain = made.stored.stain
    assert stain is not None
    own = (pixels[820:980, 500:1800] + 1.0) * (np.array(WHITE) + 1) / (np.array(stain.white) + 1) - 1
    assert np.abs(after[820:980, 500:1800] - own).mean() < 3  # what JPEG takes
    row = load_finished(tmp_path / "out" / "work" / "slides" / "dark.svs")
    assert row is not None and "of the tissue lies under ink or dark, and is shown as scanned" in row.row.reason
    assert "is shown as glass" in row.row.reason
    verified = wsi_stain("verify", tmp_path / "out", "-j", 0)
    assert verified.code == 0, verified.out
