"""What becomes of a slide's pixels: the protocol all normalizations stand behind, their settings, how one is loaded.

Knows no stores and writes no files; `inference` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from pydantic import Field

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage, round_rgb
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import TILE
from wsi_stain.core.journal import file_digest
from wsi_stain.core.records import StrictRecord
from wsi_stain.normalizers.classical_reference import ClassicalMethod, load_classical_reference
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.lut import LutNormalizer
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.precision import Precision, resolve_auto
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, NormalizationCounts

Method = Literal["pix2pix"] | ClassicalMethod
Mode = Literal["auto", "generator", "guard", "lut"]

_GPU_THREADS = 4
"""As many as a block has bands of 1024 px. What is fastest was not measured."""


class NormalizeConfig(StrictRecord):
    """How slides are normalized, and what becomes of the generated pixels.

    Attributes:
        method: `pix2pix`, or a classical method at slide level, for which no other setting here counts.
        mode: `generator`: as they are. `guard`: the source with the smooth part of the change. `lut`: one colour table
            per slide, fitted to the generator, applied to every pixel. `auto`: `generator` on a GPU, `lut` without.
        stride_px: Side of the square that is one pass's own, px; a multiple of 256. Seams are impossible where it is at
            least twice the generator's halo (96 px at five downs, 192 at six, 768 at eight); else passes are blended.
        batch: Squares of one pass. Part of the fixed shape, as `stride_px` is.
        compile: Whether torch.compile translates the generator: worth its minute on large cohorts.
        precision: Of the generator; `auto` is bfloat16 where the device computes in it natively, else float32.
        guard_um: Half the side of the windows within which `guard` takes the change for smooth, um.
        lut_size: Entries along each side of the colour table. On a held-out part of a real slide, shown as four other
            laboratories would have it, 33 comes no nearer to the truth than 17 (CIEDE2000 apart by 0.02 at most) and
            takes ten times as long to fit, 1 s, which no other worker can share.
        lut_tiles: Tissue tiles of a slide that the table is fitted to and checked on; 50, 100 and 200 come equally
            near to the truth, but the more, the fewer colours are left that the table was not fitted to.
        lut_outside: Share of the tissue, 0 to 1, with such colours, above which a slide's row and a line say so; two
            real slides have 0.00001.
        threads: Threads of one task, each with a band of the block: reading, copies, the generator and encoding
            overlap. None takes 4 on a GPU, and without one 1, since there the executor starts a process for each core.
            Neither changes the bytes.
    """

    method: Method = "pix2pix"
    mode: Mode = "auto"
    stride_px: int = Field(default=1024, ge=TILE, le=4096, multiple_of=TILE)
    batch: int = Field(default=1, ge=1, le=64)
    compile: bool = False
    precision: Precision = "auto"
    guard_um: float = Field(default=8.0, ge=1, le=64)
    lut_size: int = Field(default=17, ge=5, le=65)
    lut_tiles: int = Field(default=100, ge=10, le=1000)
    lut_outside: float = Field(default=0.001, ge=0, le=1)
    threads: int | None = Field(default=None, ge=1, le=256)

    def resolve_auto(self, device: str) -> NormalizeConfig:
        """The same settings with each `auto` replaced by what the device gets: workers must not decide one by one."""
        precision = resolve_auto(self.precision, torch.device(device))
        return self.model_copy(update={"mode": self.resolve_mode(device), "precision": precision})

    def resolve_mode(self, device: str) -> Mode:
        """The mode, with `auto` replaced by what the device gets."""
        return self.mode if self.mode != "auto" else "generator" if device.startswith("cuda") else "lut"

    def resolve_threads(self, device: str) -> int:
        """How many threads a task has there."""
        return self.threads or (_GPU_THREADS if device.startswith("cuda") else 1)

    @property
    def name(self) -> str:
        """The classical method, or the mode of Pix2Pix."""
        return self.mode if self.method == "pix2pix" else self.method


class Normalizer(Protocol):
    """One way to normalize a slide, in two steps: once for the slide, then block by block in any order.

    Attributes:
        halo: Source pixels that `apply` needs on each side of a block, px.
        band: How many rows of a block `apply` is best given at once, px; a multiple of 256.
        white: The background of the output, RGB.
    """

    @property
    def halo(self) -> int: ...

    @property
    def band(self) -> int: ...

    @property
    def white(self) -> Rgb8: ...

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """What `apply` has to know about the slide. The same slide gives the same arrays."""

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize a block, or a band of one. A pixel's result does not depend on how the slide is cut into them.

        Args:
            pixels: (h + 2 halo, w + 2 halo, 3) RGB; 255 where the slide has no tile. The origin lies on a multiple
                of `band` from the block's.
            needed: (ceil(h / 256), ceil(w / 256)): tiles whose result matters.
            artifact: From `prepare` on the same slide.
            tally: Takes note of what the receipt should tell.

        Returns:
            (h, w, 3) RGB; anything in tiles that are not needed.
        """


@runtime_checkable
class SampledNormalizer(Normalizer, Protocol):
    """One whose `prepare` can be split: `sample` of each of `table_output.PARTS` parts, anywhere, then `fit`."""

    def sample(self, slide: TiledSlide, statistics: StainStatistics, part: int) -> Artifact:
        """What there is to know of one part of the slide."""

    def fit(self, statistics: StainStatistics, samples: Sequence[Artifact]) -> Artifact:
        """What `prepare` gives, byte for byte, from what `sample` gave for each part, in order."""


NormalizerFactory: TypeAlias = Callable[[Checkpoint, Rgb8, NormalizeConfig, str], Normalizer]


class IdentityNormalizer:
    """Changes nothing, for tests and benchmarks: what comes out must be what went in, in its place.

    No setting leads to it. Who wants it puts a maker of it into `FACTORIES`; then it passes through the doors of all.
    """

    halo, band = 0, 4 * TILE

    def __init__(self, white: Rgb8 = (255, 255, 255)) -> None:
        self.white = white

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Nothing to know."""
        return {}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """The very pixels."""
        return pixels


def _make_generator(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    predictor = _load_predictor(checkpoint, config, device)
    return GeneratorNormalizer(predictor, white, config.stride_px, _make_table(predictor, white, config), config.batch)


def _make_guard(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    predictor = _load_predictor(checkpoint, config, device)
    radius = max(1, round(config.guard_um / checkpoint.contract.mpp))
    table = _make_table(predictor, white, config)
    return GuardNormalizer(predictor, white, config.stride_px, radius, table, config.batch)


def _make_lut(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    return _make_table(_load_predictor(checkpoint, config, device), white, config)


_PREDICTORS: dict[tuple[str, str, Precision, bool], GeneratorPredictor] = {}


def _load_predictor(checkpoint: Checkpoint, config: NormalizeConfig, device: str) -> GeneratorPredictor:
    """The generator on its device: one for all modes and shapes, so that a smaller shape needs no second."""
    key = checkpoint.digest, device, config.precision, config.compile
    if key not in _PREDICTORS:
        _PREDICTORS[key] = GeneratorPredictor(checkpoint, device, config.precision, config.compile)
    return _PREDICTORS[key]


def _make_table(predictor: GeneratorPredictor, white: Rgb8, config: NormalizeConfig) -> LutNormalizer:
    return LutNormalizer(predictor, white, config.lut_size, config.lut_tiles)


FACTORIES: dict[str, NormalizerFactory] = {"generator": _make_generator, "guard": _make_guard, "lut": _make_lut}
"""By mode of Pix2Pix, what makes a normalizer: of a checkpoint, the output's white, settings, and a device."""


def load_normalizer(
    config: NormalizeConfig, checkpoint: Path, device: str = "cpu", digest: str | None = None
) -> Normalizer:
    """The normalizer for a checkpoint, or for a style; loaded once per process, whatever the number of calls.

    Args:
        config: The method, and what to make of generated pixels.
        checkpoint: The checkpoint's file; for classical methods that of the style.
        device: As torch names it.
        digest: SHA-256 of the file as the run knows it; computed when None.

    Raises:
        CheckpointError: The file is no such thing, or no longer the one that the run began with.
    """
    digest = digest or file_digest(checkpoint)
    with _LOADING:
        if config.method != "pix2pix":
            return _load_classical(checkpoint, digest)
        config = config.resolve_auto(device)
        return _load_pix2pix(FACTORIES[config.mode], config, checkpoint, device, digest)


_LOADING = Lock()
"""Threads of a process that want the same normalizer wait for the one that loads it."""


@cache
def _load_classical(path: Path, digest: str) -> Normalizer:
    return load_classical_reference(path, digest).normalizer()


@cache
def _load_pix2pix(
    factory: NormalizerFactory, config: NormalizeConfig, path: Path, device: str, digest: str
) -> Normalizer:
    checkpoint = load_checkpoint(path, digest)
    return factory(checkpoint, round_rgb(checkpoint.contract.white), config, device)


def load_checkpoint(path: Path, digest: str) -> Checkpoint:
    """A checkpoint that must be the one with `digest`.

    Raises:
        CheckpointError: It is another, or none.
    """
    checkpoint = Checkpoint.load(path)
    if checkpoint.digest != digest:
        raise CheckpointError(
            f"{path} changed since the run began (expected {digest[:12]}, found {checkpoint.digest[:12]})",
            "Run the same command again",
        )
    return checkpoint
