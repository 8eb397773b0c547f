"""Whether normalization helps a cohort of several centres: scores of an encoder's features, intervals, a verdict."""
