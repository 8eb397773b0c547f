"""Looking at slides before anything is done to them: what `inspect` shows and every dry run prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.products import BYTES_PER_TILE, Format
from pipelines.progress import printable, tell
from wsi_stain.errors import WsiStainError
from wsi_stain.executor import ExecutorConfig, Flow, Receipt, Task, drive, open_executor
from wsi_stain.slides import SlideSource
from wsi_stain.tiling import LookTask, TilingConfig, look_at_slide

_SECONDS_PER_TILE = 0.012
"""About what a tile takes from slide to pyramid with the colour table, on one core of a server with AVX-512."""


@dataclass(frozen=True)
class Look:
    """One slide as it was found: its facts, or the error that makes it unusable."""

    source: SlideSource
    facts: Receipt | None
    error: Exception | None

    @property
    def tiles(self) -> int:
        """Tiles that tiling would extract."""
        return self.facts["tiles"] if self.facts else 0


def look_at(
    sources: Sequence[SlideSource], config: TilingConfig, executor: ExecutorConfig, overlay: Path | None = None
) -> list[Look]:
    """Look at each slide, side by side; nothing is written.

    Args:
        sources: The slides.
        config: How they would be tiled.
        executor: Where to look; a single slide is looked at in this process.
        overlay: Directory for a picture of what would be decided on each slide.
    """
    where = executor if len(sources) > 1 else ExecutorConfig(workers=0)
    flows = {source.slide_id: _look_flow(source, config, overlay) for source in sources}
    with open_executor(where) as opened:
        found = {result.key: result for result in drive(opened, flows)}
    return [Look(source, found[source.slide_id].value, found[source.slide_id].error) for source in sources]


def print_plan(looks: Sequence[Look], console: Console, formats: Sequence[Format] = ()) -> int:
    """Print a plan: the slides, then what all of them together will take.

    Args:
        looks: The slides.
        console: Where to print.
        formats: What would be made of them beside their tiles.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    code = print_looks(looks, console)
    tiles, size = sum(look.tiles for look in looks), sum(look.facts["bytes"] for look in looks if look.facts)
    usable = sum(look.facts is not None for look in looks)
    tell(
        console,
        f"{usable} of {len(looks)} slides, {tiles} tiles, about {size_text(size)} of them on disk, "
        f"about {_duration(tiles * _SECONDS_PER_TILE)} of work on one core beside the training",
    )
    if formats:
        tell(console, expected_output(tiles, formats))
    return code


def expected_output(tiles: int, formats: Sequence[Format]) -> str:
    """What the products of so many tiles will take on disk, in words."""
    return "outputs: " + ", ".join(f"{kind} about {size_text(tiles * BYTES_PER_TILE[kind])}" for kind in formats)


def print_looks(looks: Sequence[Look], console: Console) -> int:
    """Print the table of slides, and below it what is wrong with those that cannot be used.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    table = Table()
    for heading in (
        "slide",
        "size, px",
        "levels",
        "um/px",
        "from",
        "objective",
        "vendor",
        "tissue",
        "tiles",
        "suspect",
        "bytes",
        "work",
    ):
        table.add_column(heading, overflow="fold")
    for look in looks:
        table.add_row(
            escape(printable(look.source.relative)), *(_cells(look.facts) if look.facts else ["cannot be used"])
        )
    console.print(table)
    refused = [look for look in looks if look.error is not None]
    for look in refused:
        kind = "" if isinstance(look.error, WsiStainError) else f"{type(look.error).__name__}: "
        console.print(
            printable(f"{look.source.relative}: {kind}{look.error}"), highlight=False, markup=False, soft_wrap=True
        )
    return 3 if refused else 0


def overlay_path(directory: Path | None, source: SlideSource) -> Path | None:
    """Where a slide's overlay goes."""
    return directory / f"{source.slide_id}.png" if directory else None


def _look_flow(source: SlideSource, config: TilingConfig, overlay: Path | None) -> Flow:
    (facts,) = yield [Task(look_at_slide, LookTask(source, config, overlay_path(overlay, source)), "look")]
    return facts


def _cells(facts: dict[str, Any]) -> list[str]:
    power = facts["objective_power"]
    mpp = " x ".join(f"{side:.4g}" for side in dict.fromkeys(facts["mpp_l0"]))
    if facts["mpp"] != facts["mpp_l0"]:
        mpp += f" -> {facts['mpp'][0]:.4g}"
    return [
        " x ".join(str(side) for side in facts["size_l0"]),
        str(facts["levels"]),
        mpp,
        facts["mpp_origin"],
        f"{power:g}x" if power else "unknown",
        facts["vendor"],
        f"{facts['tissue']:.0%}",
        str(facts["tiles"]),
        str(facts["suspect"]),
        size_text(facts["bytes"]),
        _duration(facts["tiles"] * _SECONDS_PER_TILE),
    ]


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
