"""Plugin by which zarr-python reads tiles stored as JPEG: the codec `imagecodecs_jpeg`, which zarr finds by itself.

It is the codec of that name in imagecodecs 2026.5 and later, which need a newer Python than wsi-stain does, for reading
only. wsi-stain itself does not use it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import imagecodecs
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer


@dataclass(frozen=True)
class ZarrJpeg(ArrayBytesCodec):
    """JPEG of one chunk, (rows, columns, 3).

    Attributes:
        level: The quality it was written with, 1 to 100.
        subsampling: How it was written: `444`, `422` or `420`.
        lossless: Whether pixels were written as lossless JPEG.
    """

    is_fixed_size = False

    level: int | None = None
    subsampling: str | None = None
    lossless: bool | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ZarrJpeg:
        """Return the codec that an array's metadata describes."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as an array's metadata describes it."""
        configuration = {"level": self.level, "subsampling": self.subsampling, "lossless": self.lossless}
        return {
            "name": "imagecodecs_jpeg",
            "configuration": {key: value for key, value in configuration.items() if value is not None},
        }

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = await asyncio.to_thread(imagecodecs.jpeg8_decode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError: the size is not known beforehand."""
        raise NotImplementedError
