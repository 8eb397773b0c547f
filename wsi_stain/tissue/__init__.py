"""Where a slide has tissue: masks, the tile grid that follows from them, the quality of tiles."""
