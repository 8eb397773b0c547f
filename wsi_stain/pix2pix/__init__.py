"""The networks of Pix2Pix, as published. Knows no slides.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, arXiv 1611.07004.
"""
