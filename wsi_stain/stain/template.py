"""The generator's input, made from pixels and the stain of their slide. Knows no slides, tiles or files.

The template is a projection of optical density (luminance, or hematoxylin and eosin) followed by a monotone curve that
brings the slide's own levels to the reference's.

Arrays may be numpy or torch; the namespace is taken from the argument.

Shape legend: B slides, N pixels, C channels of a template (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray

from wsi_stain.core.records import StrictRecord
from wsi_stain.stain.gains import believed_gain, hold_dark, stain_gains
from wsi_stain.stain.statistics import Array, StainStatistics, od_table, optical_density
from wsi_stain.stain.vectors import LUMINANCE, unmixing_matrix

_LEVELS_APART = 0.1
_BEND_MAX = 2.0
# The darkest level a template shows, as a multiple of the reference's nuclei (gray, H) or stroma (E).
_HEADROOM_GRAY = 1.6
_HEADROOM_HE = 2.0


class Template(StrictRecord):
    """The generator's input, by kind and reference.

    Attributes:
        kind: "gray": luminance OD. "he": hematoxylin and eosin concentrations.
        reference: Stain of the reference that every slide is brought to.
    """

    kind: Literal["gray", "he"] = "gray"
    reference: StainStatistics

    @property
    def channels(self) -> int:
        """Channels of the template: 1 for gray, 2 for he."""
        return 1 if self.kind == "gray" else 2


def apply_template(pixels: Array, statistics: StainStatistics, template: Template) -> Array:
    """Make the generator's input from pixels of a slide.

    Args:
        pixels: RGB, (..., 3), numpy or torch, uint8, or float from 0 to 255.
        statistics: Stain of the slide the pixels are from.
        template: What to make.

    Returns:
        (..., C), float32 from -1 (glass) to 1, the same kind of array on the same device.
    """
    xp = array_namespace(pixels)
    if xp.isdtype(pixels.dtype, "integral"):
        return TemplateTables.of([statistics], template).on_device_of(pixels).look_up(pixels)
    projection, bend, knee = _curve(statistics, template)
    od = optical_density(xp.astype(pixels, xp.float32), _as_array_like(statistics.white, pixels, xp), xp)
    return _bend(xp.matmul(od, _as_array_like(projection, pixels, xp)), bend, knee, xp)


@dataclass(frozen=True)
class TemplateTables:
    """What makes the templates of one slide, or of B, from 8-bit pixels: faster than the logarithm, and never copied.

    Attributes:
        sums: (B, 3, 256, C) float32: what each value of each channel adds to the template.
        bend: Change of the curve's slope, a number or (B, 1, 1, 1); 0 has none.
        knee: Where that is, likewise.
    """

    sums: Array
    bend: Any
    knee: Any

    @classmethod
    def of(cls, statistics: Sequence[StainStatistics], template: Template) -> TemplateTables:
        """Make numpy tables: of one slide for pixels of any shape, of several for (B, H, W, 3)."""
        sums, bends, knees = zip(*(_sums(each, template) for each in statistics), strict=True)
        if len(sums) == 1:
            return cls(sums[0][None], bends[0], knees[0])
        bend, knee = (np.asarray(values, np.float32)[:, None, None, None] for values in (bends, knees))
        return cls(np.stack(sums), bend if bend.any() else 0.0, knee)

    def on_device_of(self, array: Array) -> TemplateTables:
        """Return the same tables as arrays of that array's kind on its device."""
        xp = array_namespace(array)
        bend, knee = (v if isinstance(v, float) else _as_array_like(v, array, xp) for v in (self.bend, self.knee))
        return TemplateTables(_as_array_like(self.sums, array, xp), bend, knee)

    def look_up(self, pixels: Array) -> Array:
        """Make templates, (..., C) float32 from -1 to 1, of (..., 3) integers; (B, H, W, 3) of as many slides."""
        xp = array_namespace(pixels)
        slides, _, _, channels = self.sums.shape
        first_rows: Array = 0
        if slides > 1:
            first_rows = xp.reshape(256 * xp.arange(slides, dtype=xp.int64, device=device_of(pixels)), (-1, 1, 1))

        def look_up_channel(channel: int) -> Array:
            values = xp.astype(pixels[..., channel], xp.int64)
            table = xp.reshape(self.sums[:, channel, ...], (-1, channels))
            return xp.take(table, xp.reshape(values + first_rows if slides > 1 else values, (-1,)), axis=0)

        total = look_up_channel(0)
        total += look_up_channel(1)
        total += look_up_channel(2)
        return _bend(xp.reshape(total, (*pixels.shape[:-1], channels)), self.bend, self.knee, xp)


@lru_cache(1024)
def _sums(statistics: StainStatistics, template: Template) -> tuple[NDArray[np.float32], float, float]:
    """Return (3, 256, C) sums of OD, and the curve's bend and knee."""
    projection, bend, knee = _curve(statistics, template)
    return od_table(statistics.white).T[:, :, None] * projection[:, None, :], bend, knee


def _bend(value: Array, bend: Any, knee: Any, xp: Any) -> Array:
    """Bring projected OD, which is used up, to a template's curve and range."""
    if not isinstance(bend, float) or bend:
        value = xp.clip(value, min=0.0)
        value += bend * xp.clip(value - knee, min=0.0)
    value = xp.clip(value, min=0.0, max=2.0)
    value -= 1.0
    return value


@lru_cache(1024)
def _curve(statistics: StainStatistics, template: Template) -> tuple[NDArray[np.float32], float, float]:
    """Return the factors on OD, (3, C), and for gray the change of slope and the template value where it happens.

    Projected OD counts from glass, 0; 2 is the darkest level a template shows.
    """
    own, ref = statistics, template.reference
    if template.kind == "he":
        h_gain, e_gain = stain_gains(own, ref)
        gains = [2 / _HEADROOM_HE / ref.h_nuclei * h_gain, 2 / _HEADROOM_HE / ref.e_stroma * e_gain]
        return (unmixing_matrix(own.vectors) * gains).astype(np.float32), 0.0, 0.0
    scale = 2 / _HEADROOM_GRAY / ref.lum_nuclei
    overall = hold_dark(believed_gain(own, ref, "lum_nuclei", 0), own, ref)
    # The stroma's level depends on what the slide shows as well as on its stain: go half of the way (geometrically).
    low = (overall * believed_gain(own, ref, "lum_stroma", 1)) ** 0.5
    target, measured = overall * own.lum_nuclei - low * own.lum_stroma, own.lum_nuclei - own.lum_stroma
    # Where luminance hardly tells nuclei from stroma, it cannot say how steep the curve is between them.
    is_distinct = min(target, measured) > _LEVELS_APART * own.lum_stroma
    high = float(np.clip(target / measured, low / _BEND_MAX, low * _BEND_MAX)) if is_distinct else low
    weights = np.asarray(LUMINANCE, np.float32)[:, None] * np.float32(low * scale)
    return weights, high / low - 1, low * scale * own.lum_stroma


def _as_array_like(values: Any, array: Array, xp: Any) -> Array:
    return xp.asarray(np.asarray(values, np.float32), device=device_of(array))
