"""Remedies for slide files that a reader refuses."""

from __future__ import annotations

DAMAGED = "Copy it again from its source: it is probably damaged or incomplete"
CONVERT = "Convert it to a pyramidal TIFF (for example: vips tiffsave FILE OUT.tif --tile --pyramid --compression jpeg)"

_NOT_SUPPORTED = ("unsupported", "not supported", "can not handle", "cannot handle", "not configured")
"""In these words readers refuse a sound file."""


def remedy_for(reason: str) -> str:
    """Return what to do about a refusal: another coding, where the reader does not know this one, else a copy."""
    return CONVERT if any(words in reason.lower() for words in _NOT_SUPPORTED) else DAMAGED
