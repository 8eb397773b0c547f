"""Draw the folders on their floors and what they import: an arrow from who imports to what is imported.

    nox -s bench -- draw_imports docs/folders.png

Dark arrows are those that no way over other folders implies; the rest is pale.
"""

from __future__ import annotations

import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from tests.test_architecture import FLOORS, MODULES, folder_of, own_imports

_WIDTH, _HEIGHT = 13.0, 0.62
"""Of the drawing, and of a box, in the drawing's units."""

_COLOURS = {"wsi_stain": "#dfe8f6", "pipelines": "#f6ead7"}

Arrow = tuple[str, str]
"""Who imports, and what."""


def count_imports() -> Counter[Arrow]:
    """Count, for each two folders, the pairs of modules of which one imports the other."""
    pairs = ((folder_of(module), folder_of(name)) for module in MODULES for name in own_imports(module))
    return Counter((user, used) for user, used in pairs if user != used and "wsi_stain" not in (user, used))


def find_implied(arrows: set[Arrow]) -> set[Arrow]:
    """Find the arrows whose end is reached over other folders too."""
    used: dict[str, set[str]] = {}
    for user, name in arrows:
        used.setdefault(user, set()).add(name)
    reached: dict[str, set[str]] = {}
    for folder in TopologicalSorter(used).static_order():
        direct = used.get(folder, set())
        reached[folder] = direct.union(*(reached[name] for name in direct))
    return {(user, name) for user, name in arrows if any(name in reached[other] for other in used[user])}


def place_boxes() -> dict[str, tuple[float, float, float]]:
    """Place each folder's box: the x of its middle, the y of its middle, its width."""
    boxes = {}
    for floor, folders in enumerate(FLOORS):
        share = _WIDTH / len(folders)
        for number, folder in enumerate(folders):
            boxes[folder] = ((number + 0.5) * share, floor * 1.6, min(share * 0.86, 3.0))
    return boxes


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], implied: bool) -> None:
    """Draw one arrow, from a box's lower edge to another's upper edge."""
    look = {"color": "#d5d9e0", "lw": 0.6} if implied else {"color": "#33415c", "lw": 1.1}
    axes.annotate(
        "",
        xy=(end[0], end[1] + _HEIGHT / 2),
        xytext=(start[0], start[1] - _HEIGHT / 2),
        arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "connectionstyle": "arc3,rad=0.06", **look},
        zorder=1 if implied else 2,
    )


def draw(path: Path) -> None:
    """Draw everything into a PNG of few colours."""
    boxes, counts = place_boxes(), count_imports()
    implied = find_implied(set(counts))
    figure, axes = pyplot.subplots(figsize=(13, 14))
    for user, name in counts:
        draw_arrow(axes, boxes[user][:2], boxes[name][:2], (user, name) in implied)
    for folder, (x, y, width) in boxes.items():
        package, _, short = folder.partition(".")
        files = sum(folder_of(module) == folder for module in MODULES)
        box = pyplot.Rectangle(
            (x - width / 2, y - _HEIGHT / 2), width, _HEIGHT, fc=_COLOURS[package], ec="#33415c", zorder=3
        )
        axes.add_patch(box)
        axes.text(x, y, f"{short or 'commands'}\n{files} files", ha="center", va="center", fontsize=9, zorder=4)
    axes.set_title(
        f"{len(boxes)} folders (pipelines above, wsi_stain below); {len(counts)} times one imports another, always "
        f"downwards; dark: the {len(counts) - len(implied)} that no way over others implies",
        fontsize=10,
    )
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(-0.6, (len(FLOORS) - 1) * 1.6 + 0.6)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(32).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/folders.png"))
