"""Quality of a normalization: on registered pairs, on cohorts, and for another laboratory's classifier."""
