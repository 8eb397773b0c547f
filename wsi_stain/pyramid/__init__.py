"""Pyramids as they are written: block files are stitched to a hybrid OME-TIFF or an OME-Zarr; DICOM copies the TIFF."""
