"""Slide files: find them, open them, learn their resolution, read RGB from them."""
