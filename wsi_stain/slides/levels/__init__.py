"""Levels of one slide file: their scales, the pixels that each has itself, and what stands in for those it lacks."""
