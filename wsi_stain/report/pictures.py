"""Everything that a slide's row shows of the slide, made when its pyramid stands: the report needs no source later.

Memory bound: the pixels under one picture, 110 MB.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

from wsi_stain.core import html, journal
from wsi_stain.core.errors import OutputError, WsiStainError
from wsi_stain.report.colours import compare_colours, compare_nuclei
from wsi_stain.report.fields import change_of, fields_of_view
from wsi_stain.results.slide_row import SlidePictures
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import TABLE, load_artifact
from wsi_stain.tissue.overlay import overlay

_THUMBNAIL, _OVERLAY = 1024, 720


@dataclass(frozen=True, kw_only=True)
class PictureTask:
    """Make the pictures of one slide.

    Attributes:
        opener: Opens the slide.
        pyramid: What was made of it, as TIFF; None where that is its colour table alone.
        artifact: What the normalizer knows of the slide; its table where there is no pyramid.
        stain: What was taken for the slide's stain; None takes its own.
        reference: Stain of the reference; its white is the pyramid's.
        hallucination: The hallucination map, where there is one: PNG.
        out: Where the pictures go, as JSON.
    """

    opener: Callable[[], TiledSlide]
    pyramid: Path | None
    artifact: Path
    stain: StainStatistics | None
    reference: StainStatistics
    hallucination: bytes | None
    out: Path


def make_pictures(task: PictureTask) -> dict[str, Any]:
    """Do a `PictureTask`. A picture that cannot be drawn fails no slide: its row then has none.

    Returns:
        The receipt: problem, why there are no pictures, or empty.

    Raises:
        OutputError: The pyramid cannot be read, or the pictures cannot be written.
        StoreError: The slide is no longer there.
    """
    problem = ""
    with task.opener() as slide:
        try:
            pictures = _make_slide_pictures(slide, task) if task.pyramid else _make_table_pictures(slide, task)
        except WsiStainError:
            raise
        except Exception as error:  # whatever drawing makes of a strange slide, whose pyramid stands
            pictures, problem = SlidePictures(), f"{type(error).__name__}: {error}"
        journal.write_json(task.out, pictures.model_dump(mode="json"))
    return {"problem": problem}


def load_pictures(path: Path) -> SlidePictures:
    """Load what a `PictureTask` wrote."""
    return SlidePictures.model_validate_json(path.read_bytes())


def _make_slide_pictures(slide: TiledSlide, task: PictureTask) -> SlidePictures:
    assert task.pyramid is not None
    try:
        with openslide.OpenSlide(task.pyramid) as pyramid:
            before = Image.fromarray(slide.thumbnail)
            after = pyramid.get_thumbnail((_THUMBNAIL, _THUMBNAIL)).convert("RGB")
            if task.hallucination:
                change = np.asarray(Image.open(io.BytesIO(task.hallucination)), np.float64)
                fields = fields_of_view(slide, pyramid, change, "largest unexplained change")
            else:
                change = change_of(before, after, slide.kept.shape) * slide.tissue  # glass changes at every edge
                fields = fields_of_view(slide, pyramid, change, "largest change")
            stain = task.stain or slide.stain
            colours = compare_colours(slide, pyramid, stain, task.reference) if stain else None
            nuclei = compare_nuclei(slide, pyramid)
    except openslide.OpenSlideError as error:
        raise OutputError(
            f"{task.pyramid} cannot be read back: {error}", "Delete it and run the same command again"
        ) from error
    return SlidePictures(
        before=html.thumbnail_jpeg(before, _THUMBNAIL),
        after=html.thumbnail_jpeg(after, _THUMBNAIL),
        overlay=_overlay(slide),
        fields=fields,
        colours=colours,
        nuclei=nuclei,
    )


def _make_table_pictures(slide: TiledSlide, task: PictureTask) -> SlidePictures:
    """Make the pictures that need no pyramid; the slide's thumbnail goes through the table, glass and all."""
    after = apply_table(load_artifact(task.artifact)[TABLE], slide.thumbnail)
    return SlidePictures(
        before=html.thumbnail_jpeg(Image.fromarray(slide.thumbnail), _THUMBNAIL),
        after=html.thumbnail_jpeg(Image.fromarray(after), _THUMBNAIL),
        overlay=_overlay(slide),
    )


def _overlay(slide: TiledSlide) -> bytes:
    marks = slide.mask, slide.exempt, slide.kept, slide.suspect
    return html.thumbnail_jpeg(overlay(slide.thumbnail, *marks, slide.size, _OVERLAY, _OVERLAY))
