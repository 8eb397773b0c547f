"""Record of a slide in the store, and the completion mark of its folder that holds it."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Literal, TypedDict

from pydantic import Field, ValidationError, field_validator

from wsi_stain.core import journal
from wsi_stain.core.arrays import Rgb8
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import BlockIndex, GlassPlacement, Mpp, Size
from wsi_stain.core.icc import ProfileText
from wsi_stain.core.journal import FileFacts
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.storage import StoragePath, list_folders
from wsi_stain.formats import zarr_metadata, zarr_shard
from wsi_stain.stain.statistics import StainConfig, StainStatistics

FORMAT = 1
"""Version of the store's layout and of its bytes."""

MARK = "wsi_stain"
"""The attribute that is the completion mark."""


class TilesIdentity(TypedDict):
    """What decides a slide's tiles, as fingerprints.

    Attributes:
        key: Of all of it.
        file: Of the slide's file.
        settings: Of code, settings and the user's mask.
    """

    key: str
    file: str
    settings: str


class SlideRecord(StrictRecord):
    """Record of a slide in the store.

    Attributes:
        slide_id: Its safe, unique name.
        relative: Path relative to the slide directory, posix, with suffix.
        fingerprint: Fingerprint of the source file: size and a digest of samples of its bytes.
        settings_key: Fingerprint of the settings that affect pixels.
        size: Width and height of the working frame, px.
        mpp: Resolution of the working frame, um per px.
        mpp_origin: Where the resolution came from.
        objective_power: Magnification of the working frame, where known: the objective's, less what was resampled.
        vendor: Scanner vendor as OpenSlide names it.
        placement: How the slide lies on its glass, where the source says so.
        background: The scanner's background, R, G, B.
        icc_profile: The profile that the pixels are in, base64.
        icc_policy: `keep`: pixels as scanned; `srgb`: converted by their profile.
        stain_config: How its stain was measured.
        group: Laboratory and scanner.
        patient: Patient.
        site: Where the slide was made.
        split: Which part of a study the slide belongs to.
        label: The slide's label.
        holes: How many tiles could not be read from the source and show a coarser level; `maps/holes` lists them.
        suspect_tiles: Tiles without tissue that look as if they had some.
        under_ink: Share of the tissue that lies under ink, 0 to 1.
        stain: Stain of the slide; None where it was not measured.
    """

    slide_id: str
    relative: str
    fingerprint: dict[str, str | int]
    settings_key: str
    size: Size
    mpp: Mpp
    mpp_origin: str
    objective_power: float | None = None
    vendor: str = ""
    placement: GlassPlacement | None = None
    background: Rgb8 = (255, 255, 255)
    icc_profile: ProfileText | None = None
    icc_policy: Literal["keep", "srgb"] = "keep"
    stain_config: StainConfig = StainConfig()
    group: str | None = None
    patient: str | None = None
    site: str | None = None
    split: str | None = None
    label: str | None = None
    holes: int = 0
    suspect_tiles: int = 0
    under_ink: float = Field(default=0.0, ge=0, le=1)
    stain: StainStatistics | None = None

    @field_validator("relative")
    @classmethod
    def _check_relative(cls, relative: str) -> str:
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ValueError("relative must be a path below the slide directory")
        return relative

    @property
    def identity(self) -> TilesIdentity:
        """What decides the slide's tiles."""
        return {"key": self.key, "file": journal.fingerprint(self.fingerprint), "settings": self.settings_key}

    @property
    def key(self) -> str:
        """Fingerprint of everything that the slide's pixels in the store depend on."""
        return journal.fingerprint([self.fingerprint, self.settings_key, FORMAT])


def is_complete(folder: StoragePath) -> bool:
    """Check whether a slide has its completion mark."""
    return MARK in zarr_metadata.read_attributes(folder)


class ShardsMark(TypedDict):
    """Sum of a slide's shards in its completion mark.

    Attributes:
        count: How many there are.
        fingerprint: SHA-256 of the JSON list of [[row, col], size, SHA-256] of each, by their index in the block grid.
    """

    count: int
    fingerprint: str


def fold_shards(shards: Iterable[tuple[BlockIndex, FileFacts]]) -> ShardsMark:
    """Sum up shards, in any order, for the completion mark."""
    listed = [[list(block), facts["size"], facts["sha256"]] for block, facts in sorted(shards, key=itemgetter(0))]
    return {"count": len(listed), "fingerprint": journal.fingerprint(listed)}


def list_arrays(folder: StoragePath) -> list[str]:
    """List the arrays of a slide that are no tiles, by their paths in its folder, sorted."""
    groups = {group: list_folders(folder / group) for group in ("maps", "tables")}
    apart = [name for name in list_folders(folder) if name not in (*groups, "0")]
    return sorted([*apart, *(f"{group}/{name}" for group, names in groups.items() for name in names)])


def complete_record(folder: StoragePath) -> SlideRecord:
    """Read the record of a complete slide; StoreError where there is no such slide, or its record is damaged."""
    record = read_record(folder)
    if record is None:
        raise StoreError(f"There is no complete slide in {folder}", "Tile it first: run the same command again")
    return record


def read_record(folder: StoragePath) -> SlideRecord | None:
    """Read the record in a slide's completion mark, None without a mark; StoreError where it is damaged."""
    mark = zarr_metadata.read_attributes(folder).get(MARK)
    if mark is None:
        return None
    try:
        record = SlideRecord.model_validate(mark["record"])
        if record.slide_id != folder.name:
            raise ValueError(f"it is of {record.slide_id}")
        return record
    except (ValueError, ValidationError, KeyError, TypeError) as error:
        raise StoreError(f"The record of the slide in {folder} is damaged: {error}", zarr_shard.REMEDY) from error
