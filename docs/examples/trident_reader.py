"""Slides in the reference's stain for TRIDENT: `NormalizedWSI("slide.svs")` in place of `load_wsi("slide.svs")`."""

from __future__ import annotations

from trident import OpenSlideWSI

import wsi_stain


class NormalizedWSI(OpenSlideWSI):
    """OpenSlide's slide, normalized while it is read."""

    checkpoint = "training/checkpoint.safetensors"

    def _lazy_initialize(self) -> None:
        opened = self._initialized
        super()._lazy_initialize()
        if not opened:
            self.img.close()
            self.img = wsi_stain.NormalizedSlide(self.slide_path, self.checkpoint, "lut")
            self.level_count = self.img.level_count
            self.level_downsamples = self.img.level_downsamples
            self.level_dimensions = self.img.level_dimensions
            self.properties = self.img.properties
