"""Slides in the reference's stain for tiatoolbox: `NormalizedReader("slide.svs", "checkpoint.safetensors")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader

import wsi_stain


class NormalizedReader(OpenSlideWSIReader):
    """OpenSlide's reader on a slide that is normalized while it is read."""

    def __init__(self, slide: str | Path, checkpoint: str | Path, **options: Any) -> None:
        super().__init__(slide, **options)
        self.openslide_wsi.close()
        self.openslide_wsi = wsi_stain.NormalizedSlide(slide, checkpoint, "lut")
