"""Slides in the reference's stain for wsidata and LazySlide: `open_wsi("slide.svs", reader="wsi-stain")`."""

from __future__ import annotations

from wsidata.reader import READERS, OpenSlideReader

import wsi_stain


class NormalizedReader(OpenSlideReader):
    """OpenSlide's reader on a slide that is normalized while it is read."""

    name = "wsi-stain"
    checkpoint = "training/checkpoint.safetensors"

    def create_reader(self) -> None:
        """Open the slide; wsidata calls this again in each worker process."""
        self.set_reader(wsi_stain.NormalizedSlide(self.file, self.checkpoint, "lut"))


READERS[NormalizedReader.name] = NormalizedReader
