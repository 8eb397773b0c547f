"""TIFF slides as their own directories describe them: what they claim, and what may be believed."""
