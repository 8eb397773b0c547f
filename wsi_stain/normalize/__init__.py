"""Places where pixels change: a block, a region, a slide, a store, a patch, each by any normalizer."""
