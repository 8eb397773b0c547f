"""Which slides a run does, and which it learns from; nothing is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.storage import real_path
from wsi_stain.slides.listing.find import SlideSource, find_slides, merge_details


def find_slides_and_references(
    slides: Sequence[Path],
    references: Sequence[Path],
    out: Path,
    masks: Path | None,
    warn: Callable[[str], None],
) -> tuple[list[SlideSource], list[SlideSource]]:
    """Find the slides to do and the references to train on; what either list says of a slide holds in both.

    Args:
        slides: Files, directories, globs, slide lists.
        references: The same of the references; none where nothing is learnt from slides given by name.
        out: The output directory: pyramids that an earlier run left there are no slides.
        masks: Directory of the user's own masks.
        warn: Is told of each folder that cannot be searched.

    Raises:
        ConfigError: There are no slides, or no references to learn from, or the lists contradict each other.
    """
    own = real_path(out)
    sources = [source for source in find_slides(slides, masks, warn) if not real_path(source.path).is_relative_to(own)]
    if not sources:
        raise ConfigError(f"All slides lie within the output directory {own}", "Choose another --out")
    if not references:
        return sources, []
    listed = merge_details(find_slides(references, masks, warn), sources)
    learnt_from = [reference for reference in listed if reference.split != "test"]
    if not learnt_from:
        raise ConfigError("All references are of the split 'test', set aside for testing", "Name another --reference")
    return merge_details(sources, listed), learnt_from
