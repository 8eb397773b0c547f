"""Measures of images and of normalizations: colour distance, structure, nuclei, seams, hallucination."""
