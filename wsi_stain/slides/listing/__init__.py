"""Which slides a run works on: paths, directories and lists become sources; masks drawn by users."""
