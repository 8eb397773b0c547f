"""Files of settings in YAML, written by a user or by somebody else: read without believing them. Knows no slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.storage import check_regular

_MOST_BYTES = 2**20


class _PlainLoader(yaml.SafeLoader):
    """Takes no aliases: a few lines of them can stand for more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias: write the value out in its place")
        return super().compose_node(parent, index)


def read_yaml(path: Path, remedy: str) -> Any:
    """Read what a file of at most 1 MiB holds.

    Args:
        path: The file.
        remedy: What to do about one that is no YAML.

    Raises:
        ConfigError: It is no regular file, too large, or no YAML.
        OSError: It cannot be read.
    """
    check_regular(path, ConfigError)
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ConfigError(f"{path} has {size / 1e6:.0f} MB, expected a few settings", "Name the file of settings")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 a SafeLoader that takes less
    except OSError:
        raise
    except Exception as error:  # PyYAML raises its own errors, and others at a date of no calendar or deep nesting
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}", remedy) from error
