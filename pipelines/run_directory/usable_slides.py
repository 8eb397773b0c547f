"""The slides of a tile store that can be trained on or normalized; a damaged one leaves the others alone."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_stain.core.errors import StoreError
from wsi_stain.core.storage import StoragePath
from wsi_stain.store import StoredSlide, TileStore


@dataclass(frozen=True)
class UsableSlides:
    """The complete slides of a tile store.

    Attributes:
        slides: Those that can be used.
        damaged: Why others cannot, by slide id.
    """

    slides: list[StoredSlide]
    damaged: dict[str, StoreError]


def find_usable_slides(path: StoragePath) -> UsableSlides:
    """Open all complete slides of a tile store; no pixels are read.

    Raises:
        StoreError: There is no store, or no complete slide in it.
    """
    store, usable = TileStore(path), UsableSlides([], {})
    for slide_id in store.slide_ids():
        try:
            slide = store[slide_id]
            slide.check()
            usable.slides.append(slide)
        except StoreError as error:
            usable.damaged[slide_id] = error
    if not usable.slides and not usable.damaged:
        raise StoreError(f"{path} holds no complete slide", "Tile slides into it first: wsi-stain tile")
    return usable
