"""Three small slides of one scanner and one tissue, with more hematoxylin from one to the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.slide_files import write_slide
from wsi_stain.core.geometry import Size
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue

GAINS = {"pale": 1.1, "middle": 1.4, "dark": 1.7}


def write_cohort(folder: Path) -> list[Path]:
    """Write pale.svs, middle.svs and dark.svs, 1280 x 1280 px of tissue beside glass, at 0.5 um/px."""
    folder.mkdir(parents=True)
    tissue = render_tissue(Size(640, 640), 0.5, 5)
    paths = []
    for name, gain in GAINS.items():
        laboratory = LABORATORIES["reference"].model_copy(update={"hematoxylin_gain": gain})
        pixels = np.tile(stain_tissue(tissue, laboratory, 5), (2, 2, 1))
        pixels = np.pad(pixels, ((0, 0), (0, 120), (0, 0)), constant_values=244)
        scanner = "AppMag = 20|MPP = 0.5|ScanScope ID = S1"
        paths.append(write_slide(folder / f"{name}.svs", [pixels], mpp=0.5, aperio=scanner))
    return paths
