"""Stain as numbers: vectors and levels of one slide, templates made from them, pools of slides, colour tables."""
