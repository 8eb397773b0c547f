"""Finished pyramids through the eyes of independent readers, behind one protocol."""
