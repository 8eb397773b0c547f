"""The reference as the classical methods know it: a few numbers in a JSON file, as a checkpoint is for Pix2Pix.

Macenko's method needs the reference's stain alone, which a checkpoint's contract holds too; Reinhard's and Vahadane's
are measured on the reference's tiles. The same tiles give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from pydantic import ValidationError

from wsi_stain.core.arrays import Rgb, round_rgb
from wsi_stain.core.errors import CheckpointError, ConfigError
from wsi_stain.core.geometry import ceil_div
from wsi_stain.core.icc import ProfileText
from wsi_stain.core.journal import file_digest, read_json
from wsi_stain.core.records import StrictRecord
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.normalizers.classical import (
    MacenkoNormalizer,
    ReinhardNormalizer,
    VahadaneNormalizer,
    lab_moments,
    sparse_stains,
)
from wsi_stain.normalizers.config import ClassicalMethod
from wsi_stain.normalizers.tile_sample import read_pixels, reference_nuclei
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.stain.pool import pool_stains
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide

FORMAT = 2
"""Number of the file's format; files of another are refused."""

_TILES = 200
_EVERY = 16
_RERUN = "Run the same command again, with --reference"


class ClassicalReference(StrictRecord):
    """Reference of a classical method: the few numbers that it takes from the reference's slides.

    Attributes:
        format: Number of this format.
        method: Whose method it is for.
        stain: The reference's stain; its white is that of the outputs.
        nuclei: The reference's nuclei, where it shows enough of them.
        lab_mean: Reinhard: mean L*, a*, b* of stained pixels.
        lab_std: Reinhard: their standard deviations.
        vectors: Vahadane: unit OD vectors of hematoxylin and eosin.
        amounts: Vahadane: the 99th percentile of each one's amount, OD.
        icc_profile: The reference's ICC profile, base64, or None; outputs are in its colour space.
        icc_policy: `keep`: the reference's pixels as scanned; `srgb`: converted on reading.
    """

    format: int = FORMAT
    method: ClassicalMethod
    stain: StainStatistics
    nuclei: NuclearDetail | None = None
    lab_mean: Rgb | None = None
    lab_std: Rgb | None = None
    vectors: tuple[Rgb, Rgb] | None = None
    amounts: tuple[float, float] | None = None
    icc_profile: ProfileText | None = None
    icc_policy: Literal["keep", "srgb"] = "keep"

    def normalizer(self) -> ReinhardNormalizer | MacenkoNormalizer | VahadaneNormalizer:
        """Return the method, ready for any slide."""
        match self.method:
            case "reinhard":
                assert self.lab_mean and self.lab_std
                return ReinhardNormalizer(self.lab_mean, self.lab_std, round_rgb(self.stain.white))
            case "macenko":
                return MacenkoNormalizer(self.stain)
            case "vahadane":
                assert self.vectors and self.amounts
                return VahadaneNormalizer(self.vectors, self.amounts, self.stain.white)
            case other:
                assert_never(other)


def measure_classical_reference(method: ClassicalMethod, slides: Sequence[StoredSlide]) -> ClassicalReference:
    """Measure what a method needs on the reference's slides.

    Args:
        method: Whose.
        slides: The reference's, with measured stain; all count the same.

    Raises:
        ConfigError: There is no slide, a stain was not measured, or their colour spaces differ; or scikit-learn is
            missing.
        NoTissueError: A slide has no tissue.
    """
    stains = [slide.stain for slide in slides if slide.stain]
    if not stains or len(stains) < len(slides):
        raise ConfigError("The reference needs slides whose stain was measured", "Tile them again: wsi-stain tile")
    if len(spaces := {(slide.record.icc_profile, slide.record.icc_policy) for slide in slides}) > 1:
        raise ConfigError(
            "The reference slides have different ICC profiles, so their colours do not mean the same",
            "Tile them with tiling.slide.icc set to srgb",
        )
    ((profile, policy),) = spaces
    # One slide's stain is taken as it is: pooling would round it.
    stain = pool_stains(stains) if len(stains) > 1 else stains[0]
    reference = ClassicalReference(
        method=method, stain=stain, nuclei=reference_nuclei(slides), icc_profile=profile, icc_policy=policy
    )
    if method == "macenko":
        return reference
    pool = np.concatenate([read_pixels(slide, ceil_div(_TILES, len(slides)), _EVERY) for slide in slides])
    if method == "reinhard":
        mean, std = lab_moments(pool, stain.white)
        return reference.model_copy(update={"lab_mean": mean, "lab_std": std})
    vectors, amounts = sparse_stains(pool, stain.white)
    return reference.model_copy(update={"vectors": vectors, "amounts": amounts})


def reference_of_checkpoint(contract: Contract, method: ClassicalMethod) -> ClassicalReference:
    """Take the reference from a checkpoint's contract; ConfigError where a method needs more than that."""
    if method != "macenko":
        raise ConfigError(
            f"A checkpoint holds the stain of its reference, and {method.capitalize()}'s method needs more of it",
            "Give --reference instead of --checkpoint",
        )
    return ClassicalReference(
        method=method,
        stain=contract.template.reference,
        nuclei=contract.nuclei,
        icc_profile=contract.icc_profile,
        icc_policy=contract.icc_policy,
    )


def load_classical_reference(path: Path, digest: str) -> ClassicalReference:
    """Read a reference that must be the one with `digest`.

    Raises:
        CheckpointError: It is another, or none, or damaged.
    """
    try:
        reference = ClassicalReference.model_validate(read_json(path))
    except ValidationError as error:
        raise CheckpointError(f"{path} does not describe a reference: {error.errors()[0]['msg']}", _RERUN) from error
    if reference.format != FORMAT or file_digest(path) != digest:
        raise CheckpointError(f"{path} changed since the run began, or is of another version", _RERUN)
    return reference
