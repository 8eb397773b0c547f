"""What the parts work on: a device, a network of the size of `wsi`, a slide; or, in a dry run, tiny ones on a CPU."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from run import HERE, ROOT

from tests.support.giant_slide import write_giant
from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.stain.statistics import StainStatistics, slide_statistics
from wsi_stain.stain.template import Template
from wsi_stain.store import TiledSlide
from wsi_stain.synthetic.slide import write_slide
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import load_streamed, survey_streamed

_MPP = 0.25
_WHITE = (242.0, 240.0, 243.0)


@dataclass(frozen=True)
class Setup:
    """One run of the measurements.

    Attributes:
        out: Where everything goes.
        is_dry: Whether all is tiny and on a CPU.
    """

    out: Path
    is_dry: bool

    @property
    def device(self) -> str:
        """As torch names it."""
        return "cpu" if self.is_dry else "cuda"

    @property
    def ngf(self) -> int:
        """Channels of the networks' first layers."""
        return 4 if self.is_dry else 64

    @property
    def stride_px(self) -> int:
        """Of the generator's passes, px."""
        return 512 if self.is_dry else 1024

    @property
    def work(self) -> Path:
        """A folder for what is made on the way."""
        folder = self.out / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def statistics(self) -> StainStatistics:
        """Stain of the painted slides, which are the reference too."""
        return slide_statistics(paint_tissue(Size(600, 400)).reshape(-1, 3), _WHITE, "glass")

    @cached_property
    def checkpoint(self) -> Path:
        """A generator of the full size that never trained, whose outputs have many colours."""
        path = self.work / "checkpoint.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            config = GeneratorConfig(downs=5, ngf=self.ngf, in_channels=2)
            generator = Generator(config)
            with torch.no_grad():
                for weights in generator.parameters():
                    if weights.ndim == 4:
                        weights *= 16 / self.ngf**0.5  # so that the output uses its range, and is hardly cut off
                generator.train()(torch.rand(4, 2, 64, 64) * 2 - 1)
            contract = Contract(
                generator=config,
                template=Template(kind="he", reference=self.statistics),
                mpp=_MPP,
                training_fingerprint="0" * 64,
                version="0",
            )
            save(path, generator.eval(), contract)
        return path

    @cached_property
    def loaded(self) -> Checkpoint:
        """The same, in memory."""
        return Checkpoint.load(self.checkpoint)

    @cached_property
    def slide(self) -> Path:
        """The slide that was carried, else one painted for the occasion."""
        carried = [] if self.is_dry else sorted((HERE / "carried").glob("slide.*"))
        if carried:
            return carried[0]
        piece, times = paint_tissue(Size(1300, 1100), seed=3), 1 if self.is_dry else 8
        return self._made("painted.tif", lambda path: write_slide(path, np.tile(piece, (times, times, 1)), _MPP))

    @cached_property
    def giant(self) -> Path:
        """A slide with 2.4 Gpx of tissue; its two tiles repeat."""
        if self.is_dry:
            return self.slide
        return self._made("giant.tiff", lambda path: write_giant(path, Size(133_000, 98_000)))

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.work / name
        if not path.exists():
            make(path)
        return path

    def open_slide(self, path: Path) -> TiledSlide:
        """Open a slide's file to be streamed, in any process."""
        source: SlideSource = find_slides([path])[0]
        folder, config = self.work / f"survey-{path.stem}", TilingConfig()
        if not folder.exists():
            survey_streamed(source, config).save(folder)
        return load_streamed(folder, source, config)

    def normalize(
        self, name: str, mode: str, options: tuple[str, ...] = (), failpoint: str | None = None, **executor: int
    ) -> subprocess.CompletedProcess[str]:
        """Run `wsi-stain normalize` on the slide, into `name`.

        Args:
            name: Of the output directory.
            mode: Of Pix2Pix.
            options: More of the command line.
            failpoint: Where to kill the process, see CONTRIBUTING.md.
            executor: Settings of the executor.
        """
        config = self.work / f"{name}.yaml"
        sections = {"normalize": {"stride_px": self.stride_px, "lut_tiles": 20 if self.is_dry else 100}}
        config.write_text(yaml.safe_dump({**sections, "executor": executor}))
        command = [sys.executable, "-m", "pipelines.cli", "normalize", self.slide, "--checkpoint", self.checkpoint]
        command += ["-o", self.work / name, "--mode", mode, "-c", config, *options]
        environment = os.environ | ({"WSI_STAIN_FAILPOINT": failpoint} if failpoint else {})
        return subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    def pyramid_digest(self, name: str) -> str:
        """SHA-256 of the one pyramid of an output directory, which is then removed."""
        (pyramid,) = (self.work / name / "slides").rglob("*.tif")
        digest = hashlib.sha256(pyramid.read_bytes()).hexdigest()
        shutil.rmtree(self.work / name)
        return digest
