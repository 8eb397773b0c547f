"""A laboratory's own references, kept by name."""
