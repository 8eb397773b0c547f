"""What the slides of a run share while they are normalized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.normalization.target import NormalizationTarget
from pipelines.run_directory.slide_outputs import SlideOutputs
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.device import tasks_device
from pipelines.shared.space import DiskSpace
from wsi_stain import __version__
from wsi_stain.core.journal import fingerprint
from wsi_stain.formats import block_file
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store.record import TilesIdentity


@dataclass(frozen=True)
class RunContext:
    """State that all slides of a run share.

    Attributes:
        workspace: Paths below the output directory.
        target: The checkpoint or classical reference.
        config: The run's configuration without `auto` values: see `device.resolve_auto`.
        stems: Name of each slide's outputs by slide id, relative to OUT, without suffix.
        check_lease: Raises LeaseError when another run took the output directory.
        report: Prints a line.
        space: Room where the outputs go.
        group_stains: Pooled stain of slides that share a group, by slide id.
        requested_stride_px: The stride of the configuration, where a slide is made with a smaller one.
    """

    workspace: Workspace
    target: NormalizationTarget
    config: RunConfig
    stems: Mapping[str, PurePosixPath]
    check_lease: Callable[[], None]
    report: Callable[[str], None]
    space: DiskSpace
    group_stains: Mapping[str, StainStatistics] = field(default_factory=dict)
    requested_stride_px: int | None = None

    @property
    def settings(self) -> NormalizeConfig:
        """The section `normalize` of the configuration."""
        return self.config.normalize

    @property
    def device(self) -> str:
        """Device of the generator, as torch names it."""
        return tasks_device(self.config.executor)

    def key(self, slide_id: str, tiles_key: str) -> str:
        """Return the fingerprint of everything that decides the bytes of a slide's outputs."""
        return fingerprint({"tiles": tiles_key, **self._beside_tiles(slide_id)})

    def ingredients(self, slide_id: str, tiles: TilesIdentity) -> dict[str, Any]:
        """Return everything that decides the bytes of a slide's outputs, by name: what `key` is the fingerprint of."""
        return {"file": tiles["file"], "tiling": tiles["settings"], **self._beside_tiles(slide_id)}

    def _beside_tiles(self, slide_id: str) -> dict[str, Any]:
        stain = self.group_stains.get(slide_id)
        return {
            "checkpoint": self.target.digest,
            "version": __version__,
            "normalize": self.settings.model_dump(mode="json", exclude={"threads", "lut_outside"}),
            "jpeg": self.config.jpeg.model_dump(mode="json"),
            "device": self.device,
            "block_format": block_file.VERSION,
            "stain": stain.model_dump(mode="json") if stain else None,
        }

    def outputs(self, slide_id: str, tiles_key: str) -> SlideOutputs:
        """Return the outputs of a slide, given the key of its tiles."""
        folder, key = self.workspace.slide(slide_id), self.key(slide_id, tiles_key)
        return SlideOutputs(self.workspace.out, folder, self.stems[slide_id], self.config.formats, key)
