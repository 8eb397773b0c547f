"""Readers of slides behind one protocol: OpenSlide first, others for what it refuses. They decide no scale."""
