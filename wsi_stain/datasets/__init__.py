"""Data sets of patches into the tile store: a source says which patches there are, `importing` makes slides of them."""
