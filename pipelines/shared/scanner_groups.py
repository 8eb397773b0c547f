"""`--group auto`: slides of one scanner and one folder share their stain; without it, a line says that they could."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipelines.shared.progress import Progress
from wsi_stain.cohort.scanner_groups import describe_scanner_groups, find_scanner_groups
from wsi_stain.slides.listing.find import SlideSource


def group_by_scanner(
    sources: Sequence[SlideSource], scanners: Mapping[str, str], group: Literal["listed", "auto"], progress: Progress
) -> tuple[list[SlideSource], dict[str, Any]]:
    """Put slides of one scanner and one folder into a group, or only say that they could be.

    Args:
        sources: The slides; those with a group keep it.
        scanners: Scanner of each slide by its id, "" where the file names none.
        group: `auto` makes the groups.
        progress: Where it is shown.

    Returns:
        The slides, and what run.json says: `scanner_groups`, the sizes of the groups that were made, and
        `scanner_groups_offered`, a sentence on those that could be; each is left out where there are none.
    """
    groups = find_scanner_groups(sources, scanners)
    if not groups:
        return list(sources), {}
    if group == "auto":
        grouped = [source.model_copy(update={"group": groups.get(source.slide_id, source.group)}) for source in sources]
        return grouped, {"scanner_groups": dict(sorted(Counter(groups.values()).items()))}
    offer = (
        f"{describe_scanner_groups(groups)} could share their stain as a group: "
        "if one laboratory stained them, run with --group auto"
    )
    progress.report(offer)
    return list(sources), {"scanner_groups_offered": offer}
