"""Laboratories that are simulated: what their stain and scanner do to pixels, by chance or by name."""
