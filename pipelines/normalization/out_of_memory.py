"""A smaller stride of the generator for slides that the device's memory does not suffice for, remembered by slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipelines.normalization.context import RunContext
from wsi_stain.core.errors import DeviceMemoryError
from wsi_stain.core.geometry import TILE, ceil_div
from wsi_stain.core.journal import fingerprint, read_json, write_json
from wsi_stain.executor import Flow

R = TypeVar("R")


def run_within_memory(context: RunContext, slide_id: str, make_flow: Callable[[RunContext], Flow[R]]) -> Flow[R]:
    """Run a slide's flow with the stride recorded for it, and with a smaller one until the device's memory suffices.

    Args:
        context: What all slides of the run share, as configured.
        slide_id: The slide.
        make_flow: Makes the flow, given what to use in place of `context`.

    Returns:
        What the flow returns.

    Raises:
        DeviceMemoryError: The stride cannot be smaller.
    """
    while True:
        reduced = with_recorded_stride(context, slide_id)
        try:
            return (yield from make_flow(reduced))
        except DeviceMemoryError as error:
            _record_smaller_stride(reduced, slide_id, error)


def with_recorded_stride(context: RunContext, slide_id: str) -> RunContext:
    """Return the context with the smaller stride that was recorded for a slide, if one was."""
    recorded = read_json(_stride_file(context, slide_id))
    if not isinstance(recorded, dict) or recorded.get("key") != _key(context):
        return context
    settings = context.settings.model_copy(update={"stride_px": recorded["stride_px"]})
    config = context.config.model_copy(update={"normalize": settings})
    return replace(context, config=config, requested_stride_px=context.settings.stride_px)


def describe_stride(context: RunContext) -> str:
    """Describe a smaller stride than requested, for a slide's row; empty where it is the requested one."""
    if context.requested_stride_px is None:
        return ""
    return f"generated in squares of {context.settings.stride_px} px for want of memory"


def _record_smaller_stride(context: RunContext, slide_id: str, error: DeviceMemoryError) -> None:
    """Record half the stride for a slide, so that a rerun gives the same bytes; raise the error where it is least."""
    too_large = context.settings.stride_px
    stride_px = ceil_div(too_large, 2 * TILE) * TILE
    if stride_px >= too_large:
        raise DeviceMemoryError(f"{error.problem}, in the smallest squares there are, of {stride_px} px", error.remedy)
    write_json(_stride_file(context, slide_id), {"key": _key(context), "stride_px": stride_px})
    change = f"in squares of {stride_px} px, since squares of {too_large} px are too large"
    context.report(f"{slide_id}: begun again {change}. {error.problem}")


def _stride_file(context: RunContext, slide_id: str) -> Path:
    return context.workspace.slide(slide_id) / "stride.json"


def _key(context: RunContext) -> str:
    """Return the fingerprint of what the generator's need of memory depends on, with the stride as configured."""
    stride_px = context.requested_stride_px or context.settings.stride_px
    settings = context.settings.model_copy(update={"stride_px": stride_px}).model_dump(mode="json")
    return fingerprint({"normalize": settings, "checkpoint": context.target.digest, "device": context.device})
