"""What a slide's outputs are made of, kept beside their receipts, so that a rerun can say what changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsi_stain.core.journal import read_json, write_json

_CLAUSES = {
    "file": "the slide's file changed",
    "tiling": "a setting of tiling changed, or the slide's own mask or resolution",
    "checkpoint": "the checkpoint or reference is another",
    "stain": "the stain of its group changed",
    "block_format": "the format of its blocks changed",
}
"""By ingredient: what to say where it changed. Of the others, values and sections of settings, both values are said."""

UNKNOWN = "the slide, a setting, the checkpoint or the version of wsi-stain changed"
"""What to say where it is not known what the outputs were made of."""

INTERRUPTED = "an earlier run was ended before it was done with them"
"""What to say where nothing changed: whether they are whole was not recorded any more."""


def record_ingredients(folder: Path, ingredients: Mapping[str, Any]) -> None:
    """Keep what a slide's outputs are made of, in the slide's own folder: `RunContext.ingredients`."""
    write_json(_file(folder), ingredients)


def describe_changes(folder: Path, ingredients: Mapping[str, Any]) -> str:
    """Say what changed since the outputs in a slide's own folder were begun.

    Args:
        folder: The slide's own folder.
        ingredients: What the outputs would be made of now.

    Returns:
        A clause for each change; where there is none, why they are made again all the same.
    """
    before = read_json(_file(folder))
    if not isinstance(before, dict):
        return UNKNOWN
    return ", ".join(_compare(before, ingredients)) or INTERRUPTED


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        old = before.get(name)
        if old == value:
            continue
        if name in _CLAUSES:
            yield _CLAUSES[name]
        elif name == "version":
            yield f"it was made by another version of wsi-stain ({old}, this is {value})"
        elif isinstance(value, dict) and isinstance(old, dict):
            yield from (
                f"{name}.{key} is {value[key]}, was {old.get(key)}" for key in value if old.get(key) != value[key]
            )
        else:
            yield f"the {name} is {value}, was {old}"


def _file(folder: Path) -> Path:
    return folder / "made_of.json"
