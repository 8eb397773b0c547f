"""A run's output directory: what lies where in it, what a run recorded, which slides can be used."""
