"""Bytes of files, without slides: Zarr chunks, shards and metadata, block files, OME-TIFF, OME-XML."""
