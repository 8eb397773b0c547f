"""Survey of a slide's thumbnail: where it has tissue, which tiles follow from that, and what may have been missed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import NoTissueError, StainError, UnreadableError
from wsi_stain.core.geometry import Region, Size, TileIndex, tile_region
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.user_masks import read_mask
from wsi_stain.slides.remedies import remedy_for
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.vectors import NOT_HE_REMEDY
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.exempt import AS_SCANNED, Exempt, exempt_areas, share_under_ink
from wsi_stain.tissue.grid import TileGrid, tile_grid
from wsi_stain.tissue.ink import find_ink_and_dark
from wsi_stain.tissue.mask import dark_share, textured_mask, tissue_mask
from wsi_stain.tissue.missed import find_missed_tissue

_THUMBNAIL = 1024
"""Least length of a thumbnail's longer side, px, where the slide has as many: small pieces need a sharp picture too."""

_MOST_PIXELS = 5_000_000
"""Most pixels of a thumbnail: finding tissue takes about 60 B for each, and a worker has 500 MB."""

_MOSTLY_DARK = 0.5

_SHOWS_SOMETHING, _SHOWS_COLOUR = 0.05, 0.1
"""Shares of a thumbnail without tissue that are no dust and no pen strokes: of what stands out, of ink's colours."""

_SAMPLED_TILES = 32
"""Tiles that a look reads."""

_UNLIKELY = 0.001
"""So unlikely must it be that tiles looked at are lost by chance, where a slide is to have too many holes."""


@dataclass(frozen=True)
class Survey:
    """Survey of a slide's thumbnail.

    Attributes:
        thumbnail: RGB of the whole working frame, (h, w, 3).
        mask: (h, w), true on tissue.
        under_ink: Share of the tissue that lies under ink or dark, 0 to 1.
        exempt: (h, w): what is not normalized, and how it is shown; see `exempt`.
        grid: The tiles that exist: with tissue, or shown as scanned, and those around them.
        suspect: (rows, cols): tiles without tissue that look as if they had some.
    """

    thumbnail: NDArray[np.uint8]
    mask: Mask
    under_ink: float
    exempt: Exempt
    grid: TileGrid
    suspect: Mask


def find_tissue(slide: Slide, config: TissueConfig, user_mask: Path | None = None) -> Survey:
    """Find tissue on a slide's thumbnail.

    Args:
        slide: The slide.
        config: What counts as tissue.
        user_mask: The user's mask of the slide, in the place of the method of `config`.

    Raises:
        SlideError: The thumbnail or the mask cannot be read.
        StainError: The slide has no tissue, but is mostly dark, gray, blue or green: it is not H&E.
    """
    thumbnail, mpp = _thumbnail(slide, config)
    inside = _inside(slide.bounds, slide.size, thumbnail.shape)
    ink_and_dark = find_ink_and_dark(thumbnail, mpp, config)
    if user_mask is None:
        mask = tissue_mask(thumbnail, mpp, config, ink_and_dark) & inside
    else:
        step_x, step_y = slide.mpp.x / slide.mpp_l0.x, slide.mpp.y / slide.mpp_l0.y
        origin_l0 = slide.bounds.x * step_x, slide.bounds.y * step_y
        mask = read_mask(user_mask, slide.size_l0, (thumbnail.shape[0], thumbnail.shape[1]), origin_l0)
    grid = tile_grid(slide.size, mask)
    if not grid.kept.any() and dark_share(thumbnail) > _MOSTLY_DARK:
        raise StainError(f"{slide.path} is dark where a bright-field slide has glass", NOT_HE_REMEDY)
    exempt = np.where(inside, exempt_areas(ink_and_dark, mask, mpp, config), np.uint8(0))
    under_ink = share_under_ink(thumbnail, mask, exempt, mpp)
    if user_mask is not None:
        return Survey(thumbnail, mask, under_ink, exempt, grid, np.zeros_like(grid.kept))
    if grid.kept.any():  # tissue may lie under ink: those tiles are kept, and their ink is not measured
        grid = TileGrid(grid.size, grid.tissue, grid.kept | tile_grid(slide.size, exempt == AS_SCANNED).kept)
    stands_out = find_missed_tissue(thumbnail, mask | ink_and_dark.ignored, mpp) & inside
    if not grid.kept.any():
        gray = textured_mask(thumbnail, exempt > 0, mpp)  # what has tissue's texture is no border
        _check_shows_nothing(slide, stands_out | gray, exempt == AS_SCANNED)
    missed = tile_grid(slide.size, stands_out)
    return Survey(thumbnail, mask, under_ink, exempt, grid, (missed.tissue > 0) & ~grid.kept)


def _check_shows_nothing(slide: Slide, stands_out: Mask, ink: Mask) -> None:
    """Refuse a slide that shows much, and nothing stained as by H&E; (h, w) each, on its thumbnail."""
    if stands_out.mean() > _SHOWS_SOMETHING or ink.mean() > _SHOWS_COLOUR:
        raise StainError(
            f"Not H&E: {(stands_out | ink).mean():.0%} of {slide.path} stands out from the glass, and nothing there is"
            " pink or purple",
            f"{NOT_HE_REMEDY}; if it is H&E, see inspect --overlay, and choose tiling.tissue.method or --masks",
        )


def require_tissue(slide: Slide, config: TilingConfig, source: SlideSource) -> Survey:
    """Find tissue on a slide that is to be worked on, as `find_tissue`.

    Raises:
        UnreadableError: Too many of its tiles are nowhere in the file.
        NoTissueError: It has no tissue.
    """
    unwritten(slide, config.max_holes)
    survey = find_tissue(slide, config.tissue, source.mask)
    if not survey.grid.kept.any():
        missed = f", but {count} tiles look as if they had some" if (count := int(survey.suspect.sum())) else ""
        raise NoTissueError(
            f"No tissue was found on {source.relative}{missed}",
            "Leave the slide out, or look at it with inspect --overlay and choose tiling.tissue.method or --masks",
        )
    return survey


def unwritten(slide: Slide, most: float) -> list[str]:
    """Look for tiles that the file lacks on every level: whether they showed glass or tissue, nothing tells.

    Args:
        slide: The slide.
        most: Largest share of its tiles that may be missing so, `TilingConfig.max_holes`.

    Returns:
        A remark if there are some.

    Raises:
        UnreadableError: There are more.
    """
    count, tiles = slide.tiles_nowhere
    if not count:
        return []
    problem = f"{count} of {tiles} tiles of the file were never written, on no level"
    if count > most * tiles:
        raise UnreadableError(
            f"{slide.path}: {problem}, expected at most {most:.1%}",
            "Copy the slide again from its source, or raise tiling.max_holes if the missing tiles are glass",
        )
    return [f"{problem}: they are shown as glass, and nothing tells whether they are"]


def check_readable(slide: Slide, grid: TileGrid, most: float) -> list[str]:
    """Read some tiles, evenly spaced: a damaged file often opens, and shows a whole thumbnail.

    Args:
        slide: The slide.
        grid: Its tiles.
        most: Largest share of them that may be lost, `TilingConfig.max_holes`.

    Returns:
        A sentence if some of the tiles are lost.

    Raises:
        UnreadableError: So many of those looked at are lost that the slide has too many holes, in all likelihood.
    """
    kept = np.argwhere(grid.kept)
    sampled = kept[np.unique(np.linspace(0, len(kept) - 1, _SAMPLED_TILES).astype(int))] if len(kept) else kept
    reasons = [slide.reason_lost(tile_region(TileIndex(*place))) for place in sampled.tolist()]
    lost = [reason for reason in reasons if reason]
    if not lost:
        return []
    problem = f"{len(lost)} of {len(sampled)} tiles looked at are lost: {lost[0]}"
    every = len(sampled) == len(kept)
    from scipy.stats import binom  # which takes longer to load than all the rest of an inspection, and is seldom wanted

    if len(lost) > most * len(sampled) and (every or binom.sf(len(lost) - 1, len(sampled), most) < _UNLIKELY):
        raise UnreadableError(f"{slide.path}: {problem}; expected at most {most:.1%}", remedy_for(lost[0]))
    return [problem]


def _thumbnail(slide: Slide, config: TissueConfig) -> tuple[NDArray[np.uint8], float]:
    """Read a slide's thumbnail, (h, w, 3), and its true resolution, um per px."""
    width_um, height_um = slide.size.width * slide.mpp.x, slide.size.height * slide.mpp.y
    finest = max(slide.mpp.mean, (width_um * height_um / _MOST_PIXELS) ** 0.5)
    thumbnail = slide.thumbnail(max(finest, min(config.mpp, max(width_um, height_um) / _THUMBNAIL)))
    scale = (slide.size.width * slide.size.height / (thumbnail.shape[0] * thumbnail.shape[1])) ** 0.5
    return thumbnail, slide.mpp.mean * float(scale)


def _inside(bounds: Region, size: Size, shape: tuple[int, ...]) -> Mask:
    """Return (h, w) of a thumbnail of the whole frame: pixels whose centres lie within the bounds, in that frame."""
    y = (np.arange(shape[0]) + 0.5) * size.height / shape[0] - bounds.y
    x = (np.arange(shape[1]) + 0.5) * size.width / shape[1] - bounds.x
    inside: Mask = np.logical_and.outer((y >= 0) & (y < bounds.height), (x >= 0) & (x < bounds.width))
    return inside
