"""Normalization the other way round: slides as simulated laboratories would show them."""
