"""A slide to be tiled, opened as its slide list says, and its record: what decides its tiles, which makes their key."""

from __future__ import annotations

from typing import Any

from wsi_stain.core import journal
from wsi_stain.core.icc import encode_profile
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.user_masks import mask_digest
from wsi_stain.slides.slide import Slide
from wsi_stain.store import SlideRecord
from wsi_stain.tiling.config import TilingConfig

VERSION = 3
"""Raised with every change of the code that changes which tiles a slide has or what is in them."""


def config_for_slide(source: SlideSource, config: TilingConfig) -> TilingConfig:
    """Return the settings with the slide list's resolution, which knows this slide best."""
    if source.mpp is None:
        return config
    return config.model_copy(update={"slide": config.slide.model_copy(update={"slide_mpp": source.mpp})})


def open_slide(source: SlideSource, config: TilingConfig) -> Slide:
    """Open a slide with the resolution that its slide list states."""
    return Slide(source.path, config_for_slide(source, config).slide)


def make_record(slide: Slide, source: SlideSource, config: TilingConfig) -> SlideRecord:
    """Make the record of a slide whose tissue and stain are not known yet."""
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
    """Return the magnification of the working frame: a 40x slide at half its resolution is worth 20x."""
    if slide.objective_power is None:
        return None
    return round(slide.objective_power * slide.mpp_l0.mean / slide.mpp.mean, 1)


def _settings_key(source: SlideSource, config: TilingConfig) -> str:
    """Return the fingerprint of what decides a slide's tiles beside its file: code, settings, the user's mask."""
    mask = mask_digest(source.mask) if source.mask else None
    settings = config_for_slide(source, config).model_dump(mode="json", exclude={"max_holes"})
    return journal.fingerprint([VERSION, settings, mask])


def mpp_origin(slide: Slide, source: SlideSource) -> str:
    """Return the source of the resolution: the slide list, or what `Slide` read it from."""
    return slide.mpp_origin if source.mpp is None else "slide list"


def labels(source: SlideSource) -> dict[str, Any]:
    """Return what is known of a slide that affects no pixel."""
    return source.model_dump(include={"relative", "group", "patient", "site", "split", "label"})
