"""wsi-stain: re-stain whole-slide images in the style of a reference laboratory with Pix2Pix."""

from importlib.metadata import version

__version__ = version("wsi-stain")

__all__ = ["__version__"]
