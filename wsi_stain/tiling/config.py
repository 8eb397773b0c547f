"""Which slide this is, and how it is tiled: what decides its tiles, and so the key that they are kept under."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from wsi_stain.core import journal
from wsi_stain.core.icc import encode_profile
from wsi_stain.core.records import StrictRecord
from wsi_stain.formats.zarr_chunks import CodecName
from wsi_stain.slides.find import SlideSource
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.slides.user_masks import mask_digest
from wsi_stain.stain.statistics import StainConfig
from wsi_stain.store import SlideRecord
from wsi_stain.tissue.mask import TissueConfig

VERSION = 3
"""Raised with every change of the code that changes which tiles a slide has or what is in them."""


class TilingConfig(StrictRecord):
    """How slides become tiles. Everything here affects pixels, but for `max_holes`.

    Attributes:
        slide: How slides are read.
        tissue: What counts as tissue.
        stain: How a slide's stain is measured.
        codec: How tiles are compressed: `lossless`, or `jpeg` (quality 95, about a seventh of the size).
        max_holes: Share of a slide's tiles that may be unreadable in the file: those are shown as its next coarser
            level has them, and listed. With more of them the slide fails.
    """

    slide: SlideConfig = Field(default_factory=SlideConfig)
    tissue: TissueConfig = Field(default_factory=TissueConfig)
    stain: StainConfig = Field(default_factory=StainConfig)
    codec: CodecName = "lossless"
    max_holes: float = Field(default=0.05, ge=0, le=1)


def config_for_slide(source: SlideSource, config: TilingConfig) -> TilingConfig:
    """The settings with the slide list's resolution, which knows this slide best."""
    if source.mpp is None:
        return config
    return config.model_copy(update={"slide": config.slide.model_copy(update={"slide_mpp": source.mpp})})


def open_slide(source: SlideSource, config: TilingConfig) -> Slide:
    """The slide, open, with the resolution that its slide list states."""
    return Slide(source.path, config_for_slide(source, config).slide)


def make_record(slide: Slide, source: SlideSource, config: TilingConfig) -> SlideRecord:
    """What is known of a slide before its tissue and its stain are."""
    return SlideRecord(
        slide_id=source.slide_id,
        fingerprint=slide.fingerprint(),
        settings_key=_settings_key(source, config),
        size=slide.size,
        mpp=slide.mpp,
        mpp_origin=mpp_origin(slide, source),
        objective_power=_power_in_frame(slide),
        vendor=slide.vendor,
        placement=slide.placement,
        background=slide.background,
        icc_policy=config.slide.icc,
        stain_config=config.stain,
        icc_profile=encode_profile(slide.icc_profile),
        **labels(source),
    )


def _power_in_frame(slide: Slide) -> float | None:
    """The magnification of the working frame: a 40x slide at half its resolution is worth 20x."""
    if slide.objective_power is None:
        return None
    return round(slide.objective_power * slide.mpp_l0.mean / slide.mpp.mean, 1)


def _settings_key(source: SlideSource, config: TilingConfig) -> str:
    """Fingerprint of what decides a slide's tiles beside its file: code, settings, the user's mask."""
    mask = mask_digest(source.mask) if source.mask else None
    settings = config_for_slide(source, config).model_dump(mode="json", exclude={"max_holes"})
    return journal.fingerprint([VERSION, settings, mask])


def mpp_origin(slide: Slide, source: SlideSource) -> str:
    """Who says what the resolution is."""
    return slide.mpp_origin if source.mpp is None else "slide list"


def labels(source: SlideSource) -> dict[str, Any]:
    """What is known of a slide that affects no pixel."""
    return source.model_dump(include={"relative", "group", "patient", "site", "split", "label"})
