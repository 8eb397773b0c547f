"""From a file and settings to a normalizer, loaded once per process. Writes no files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from wsi_stain.core.arrays import Rgb8, round_rgb
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.journal import file_digest
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.classical_reference import load_classical_reference
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.lut import LutNormalizer, TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.normalizers.simulated.laboratory import LaboratoryNormalizer, load_laboratory
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.precision import Precision
from wsi_stain.stain.colour_table import Table

NormalizerFactory: TypeAlias = Callable[[Checkpoint, Rgb8, NormalizeConfig, str], Normalizer]


def _make_generator(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    predictor = _load_predictor(checkpoint, config, device)
    table, hold_radius = _table_to_hold_to(checkpoint, white, config, device)
    return GeneratorNormalizer(predictor, white, config.stride_px, table, config.batch, hold_radius)


def _make_guard(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    predictor = _load_predictor(checkpoint, config, device)
    radius = max(1, round(config.guard_um / checkpoint.contract.mpp))
    table, hold_radius = _table_to_hold_to(checkpoint, white, config, device)
    return GuardNormalizer(predictor, white, config.stride_px, radius, table, config.batch, hold_radius)


def _make_lut(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> Normalizer:
    return LutNormalizer(_table_fit(checkpoint, white, config, device, checkpoint.correction))


def _table_to_hold_to(
    checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str
) -> tuple[TableFit, int]:
    """Return the table that generated pixels are compared with, and over how many px they are held to it.

    Where they are not, they are as generated, and so is the table: what it corrects would count as invented.
    """
    hold_radius = round(config.hold_um / checkpoint.contract.mpp)
    correction = checkpoint.correction if hold_radius else None
    return _table_fit(checkpoint, white, config, device, correction), hold_radius


_PREDICTORS: dict[tuple[str, str, Precision, bool], GeneratorPredictor] = {}


def _load_predictor(checkpoint: Checkpoint, config: NormalizeConfig, device: str) -> GeneratorPredictor:
    """Return the generator on its device: one for all modes and shapes, so that a smaller shape needs no second."""
    key = checkpoint.digest, device, config.precision, config.compile
    if key not in _PREDICTORS:
        _PREDICTORS[key] = GeneratorPredictor(checkpoint, device, config.precision, config.compile)
    return _PREDICTORS[key]


def _table_fit(
    checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str, correction: Table | None
) -> TableFit:
    predictor = _load_predictor(checkpoint, config, device)
    return TableFit(predictor, white, config.lut_size, config.lut_tiles, config.sample_parts, correction)


FACTORIES: dict[str, NormalizerFactory] = {"generator": _make_generator, "guard": _make_guard, "lut": _make_lut}
"""Makers of normalizers by mode of Pix2Pix: from a checkpoint, the output's white, settings, and a device."""


def load_normalizer(
    config: NormalizeConfig, checkpoint: Path, device: str = "cpu", digest: str | None = None
) -> Normalizer:
    """Load the normalizer of a checkpoint or a classical reference, once per process, whatever the number of calls.

    Args:
        config: The method, and what becomes of generated pixels, `auto` resolved.
        checkpoint: The checkpoint's file; for classical methods that of the reference, or that of the laboratory.
        device: As torch names it.
        digest: SHA-256 of the file as the run knows it; computed when None.

    Raises:
        CheckpointError: The file is no such thing, or no longer the one that the run began with.
    """
    digest = digest or file_digest(checkpoint)
    with _LOADING:
        if config.method == "simulated":
            return _load_simulated(checkpoint, digest)
        if config.method != "pix2pix":
            return _load_classical(checkpoint, digest)
        return _load_pix2pix(FACTORIES[config.mode], config, checkpoint, device, digest)


_LOADING = Lock()
"""Threads of a process that want the same normalizer wait for the one that loads it."""


@cache
def _load_classical(path: Path, digest: str) -> Normalizer:
    return load_classical_reference(path, digest).normalizer()


@cache
def _load_simulated(path: Path, digest: str) -> Normalizer:
    return LaboratoryNormalizer(load_laboratory(path, digest))


@cache
def _load_pix2pix(
    factory: NormalizerFactory, config: NormalizeConfig, path: Path, device: str, digest: str
) -> Normalizer:
    checkpoint = load_checkpoint(path, digest)
    return factory(checkpoint, round_rgb(checkpoint.contract.white), config, device)


def load_checkpoint(path: Path, digest: str) -> Checkpoint:
    """Load a checkpoint that must be the one with `digest`.

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
