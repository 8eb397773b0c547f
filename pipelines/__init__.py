"""The runs: each module plans and runs one command. No pixel arithmetic here; the parts are in `wsi_stain`."""
