"""What a training promises of its checkpoint, and refuses to begin with: slides that do not fit together."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_stain import __version__
from wsi_stain.core.errors import TrainingError
from wsi_stain.core.journal import fingerprint
from wsi_stain.normalizers.tile_sample import reference_nuclei
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.stain.template import Template
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.data import stain_of
from wsi_stain.training.samples import check_resolution

_SQUARE = 1.15


def training_fingerprint(config: TrainingConfig, slides: Sequence[StoredSlide]) -> str:
    """Return the fingerprint of everything a checkpoint depends on but the software and the machine."""
    return fingerprint([config.model_dump(mode="json"), [slide.record.key for slide in slides]])


def make_contract(config: TrainingConfig, slides: Sequence[StoredSlide]) -> Contract:
    """Make the contract of a training's checkpoint, whose scores are not known yet.

    Raises:
        TrainingError: There is no slide, or they do not fit together, or their pixels are not square.
    """
    if not slides:
        raise TrainingError("There is no slide to train on", "Tile at least one reference slide")
    check_resolution(slides)
    if len({(slide.record.icc_profile, slide.record.icc_policy) for slide in slides}) > 1:
        raise TrainingError(
            "The reference slides have different ICC profiles, so their colours do not mean the same",
            "Tile them with tiling.slide.icc set to srgb",
        )
    first = slides[0]
    if max(first.mpp) > min(first.mpp) * _SQUARE:
        raise TrainingError(
            f"Pixels of {first.record.slide_id} are not square: {first.mpp.x:.4g} x {first.mpp.y:.4g} um",
            f"Tile it with --mpp {max(first.mpp):.3g}",
        )
    return Contract(
        generator=config.generator,
        template=Template(kind=config.template, reference=stain_of(first)),
        mpp=first.mpp.mean,
        shrink=config.shrink_at(first.mpp.mean),
        nuclei=reference_nuclei(slides),
        icc_profile=first.record.icc_profile,
        icc_policy=first.record.icc_policy,
        training_fingerprint=training_fingerprint(config, slides),
        stain_passes=config.stain_passes,
        version=__version__,
    )
