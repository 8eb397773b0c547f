"""How good a normalization is: on registered pairs, on cohorts, and for another laboratory's classifier."""
