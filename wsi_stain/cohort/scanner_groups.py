"""Groups without a list: slides of one scanner and one folder, whose stain may be pooled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from wsi_stain.slides.listing.find import SlideSource


def find_scanner_groups(sources: Sequence[SlideSource], scanners: Mapping[str, str]) -> dict[str, str]:
    """Name the groups that the scanners and folders of slides suggest.

    Args:
        sources: The slides; those that a slide list gave a group are left out.
        scanners: Name of the scanner by slide id; slides whose file names none are left out.

    Returns:
        The group by slide id, of slides that are not alone in theirs.
    """
    named = {
        source.slide_id: _group_name(source, scanner)
        for source in sources
        if source.group is None and (scanner := scanners.get(source.slide_id))
    }
    counts = Counter(named.values())
    return {slide_id: group for slide_id, group in named.items() if counts[group] > 1}


def describe_scanner_groups(groups: Mapping[str, str]) -> str:
    """Say how many slides share which scanner and folder, in part of a sentence; empty where none do."""
    counts = Counter(groups.values())
    return "; ".join(f"{count} slides of {group}" for group, count in sorted(counts.items()))


def _group_name(source: SlideSource, scanner: str) -> str:
    folder = PurePosixPath(source.relative).parent
    return f"{scanner}, in {'the top folder' if folder == PurePosixPath('.') else folder}"
