"""Tissue of a slide: masks, the tile grid that follows from them, the quality of tiles."""
