"""The scanner that made a slide, as the file's own properties name it. Knows no files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

_MODELS = (
    *("aperio.ScannerType", "hamamatsu.Product", "leica.device-model", "ventana.ScannerModel"),
    *("philips.DICOM_MANUFACTURERS_MODEL_NAME", "dicom.ManufacturerModelName", "tiff.Model"),
)
_SERIALS = (
    *("aperio.ScanScope ID", "hamamatsu.NDP.S/N", "hamamatsu.Macro.S/N", "ventana.UnitNumber"),
    *("philips.DICOM_DEVICE_SERIAL_NUMBER", "dicom.DeviceSerialNumber", "leica.device-serial"),
)
_MAKER = "openslide.vendor"
_GENERIC = ("generic-tiff", "unknown", "")
_LONGEST = 64


def name_scanner(properties: Mapping[str, str], icc_profile: bytes | None) -> str:
    """Name the scanner by its maker, model, serial number and ICC profile: equal for slides of one scanner.

    Args:
        properties: As OpenSlide gives them.
        icc_profile: The profile of the slide's pixels.

    Returns:
        One line; empty where the file names neither a model nor a serial number: then nothing tells scanners apart.
    """
    model, serial = _first(properties, _MODELS), _first(properties, _SERIALS)
    if not model and not serial:
        return ""
    maker = properties.get(_MAKER, "")
    parts = [
        "" if maker.lower() in _GENERIC or model.lower().startswith(maker.lower()) else maker,
        model,
        f"no. {serial}" if serial else "",
    ]
    name = " ".join(part for part in parts if part)
    return f"{name}, ICC {hashlib.sha256(icc_profile).hexdigest()[:8]}" if icc_profile else name


def _first(properties: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the first of some properties that is there, on one line of at most 64 characters."""
    found = (" ".join(properties.get(name, "").split()) for name in names)
    return next((text[:_LONGEST] for text in found if text), "")
