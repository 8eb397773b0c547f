"""The contract under which a trained generator may be used: what it was made for, and how good it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wsi_stain.core.arrays import Rgb
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import Mpp
from wsi_stain.core.icc import ProfileText
from wsi_stain.core.records import StrictRecord
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.pix2pix.config import GeneratorConfig, Shrink
from wsi_stain.stain.template import Template

FORMAT = 3
"""Number of the contract's format; files of another are refused."""


class HeldOutScores(StrictRecord):
    """How far tiles that were held out are from the truth, shown as other laboratories would: mean CIEDE2000.

    Attributes:
        generator: By the generator.
        untouched: As they are shown.
        reinhard: By Reinhard's method, at slide level.
    """

    generator: float
    untouched: float
    reinhard: float

    @property
    def is_poor(self) -> bool:
        """Whether the generator does worse than nothing."""
        return not self.generator <= self.untouched

    @property
    def warning(self) -> str:
        """A sentence where the generator does worse than nothing, or than Reinhard's method; else empty."""
        if not self.is_poor and self.generator <= self.reinhard:
            return ""
        than = "no normalization at all" if self.is_poor else "Reinhard's method"
        return (
            f"The checkpoint is worse than {than}: on held-out tiles its mean CIEDE2000 to the truth is "
            f"{self.generator:.1f}, untouched {self.untouched:.1f}, Reinhard {self.reinhard:.1f}"
        )


class Contract(StrictRecord):
    """Contract under which a generator may be used.

    Attributes:
        format: Number of this format.
        generator: The architecture.
        template: The generator's input, with the stain statistics of the reference.
        mpp: Resolution of the training tiles, um per px.
        shrink: How many of their pixels, along each axis, are averaged to one of the generator's.
        mpp_tolerance: Largest relative difference of a slide's resolution.
        nuclei: The reference's nuclei, where it shows enough of them.
        icc_profile: The reference's ICC profile, base64, or None; outputs are in its colour space.
        icc_policy: `keep`: the reference's pixels as scanned; `srgb`: converted on reading.
        training_fingerprint: Fingerprint of the training data and settings.
        version: Version of wsi-stain that trained it.
        scores: How good it is; None where no tile was held out.
        correction_size: Entries along each side of the colour correction; 0 where there is none.
        stain_passes: How many times a slide's stain statistics are refined before its table is fitted, see
            `stain.refinement`; 0 takes them as measured.
    """

    format: int = FORMAT
    generator: GeneratorConfig
    template: Template
    mpp: float = Field(ge=0.05, le=5)
    shrink: Shrink = 1
    mpp_tolerance: float = Field(default=0.15, ge=0, lt=1)
    nuclei: NuclearDetail | None = None
    icc_profile: ProfileText | None = None
    icc_policy: Literal["keep", "srgb"] = "keep"
    training_fingerprint: str
    version: str
    scores: HeldOutScores | None = None
    correction_size: int = Field(default=0, ge=0, le=65)
    stain_passes: int = Field(default=0, ge=0, le=10)

    @model_validator(mode="after")
    def _channels_agree(self) -> Contract:
        if self.generator.in_channels != self.template.channels:
            raise ValueError(
                f"a {self.template.kind} template has {self.template.channels} channels, "
                f"the generator takes {self.generator.in_channels}"
            )
        return self

    @property
    def white(self) -> Rgb:
        """The reference's white point, R, G, B, 0 to 255."""
        return self.template.reference.white

    def check_fits(self, mpp: Mpp) -> None:
        """Refuse a slide whose resolution the generator does not know.

        Args:
            mpp: Resolution of the slide's working frame, um per px.

        Raises:
            CheckpointError: It differs by more than the contract's tolerance.
        """
        own, limit = self.mpp, 1 + self.mpp_tolerance
        if all(own / limit <= side <= own * limit for side in mpp):
            return
        wrong = f"if it was scanned at {own:g} um/px and its file says otherwise, give run or tile --slide-mpp {own:g}"
        remedy = (
            f"Resample it with --mpp {own:g} of run or tile; or, {wrong}"
            if mpp.mean < own
            else f"Use a checkpoint for about {mpp.mean:.3g} um/px; or, {wrong}"
        )
        raise CheckpointError(
            f"The checkpoint works at {own:g} um/px (within {self.mpp_tolerance:.0%}), "
            f"the slide has {mpp.x:.4g} x {mpp.y:.4g} um/px",
            remedy,
        )
