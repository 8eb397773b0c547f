"""The command `wsi-stain`: options and help texts, and one call each into a pipeline."""
