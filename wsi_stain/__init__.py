"""wsi-stain: normalize whole-slide images to the stain of a reference laboratory with Pix2Pix.

The parts that a notebook wants first can be had from here: `wsi_stain.TileStore("tiles.zarr")`. Each is imported when
it is first asked for, so that `import wsi_stain` stays quick and torch is loaded only by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_stain.core.errors import WsiStainError as WsiStainError
    from wsi_stain.core.geometry import Mpp as Mpp
    from wsi_stain.core.geometry import Region as Region
    from wsi_stain.core.geometry import Size as Size
    from wsi_stain.core.geometry import TileIndex as TileIndex
    from wsi_stain.normalize.region import normalized_tiles as normalized_tiles
    from wsi_stain.normalize.slide import NormalizedSlide as NormalizedSlide
    from wsi_stain.normalize.stain_augment import StainAugment as StainAugment
    from wsi_stain.normalize.transform import StainNormalize as StainNormalize
    from wsi_stain.slides.listing.find import find_slides as find_slides
    from wsi_stain.slides.slide import Slide as Slide
    from wsi_stain.slides.slide import SlideConfig as SlideConfig
    from wsi_stain.store import StoredSlide as StoredSlide
    from wsi_stain.store import TileStore as TileStore

__version__ = "0.1.0"
"""Of this code, whether it is installed or lies in a folder on the path; a wheel is named after it."""

_HOMES = {
    "core.errors": ["WsiStainError"],
    "core.geometry": ["Mpp", "Region", "Size", "TileIndex"],
    "normalize.slide": ["NormalizedSlide"],
    "normalize.region": ["normalized_tiles"],
    "slides.slide": ["Slide", "SlideConfig"],
    "slides.listing.find": ["find_slides"],
    "normalize.stain_augment": ["StainAugment"],
    "normalize.transform": ["StainNormalize"],
    "store": ["StoredSlide", "TileStore"],
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
