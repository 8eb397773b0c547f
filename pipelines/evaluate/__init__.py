"""The `evaluate` commands: `pairs`, `cohort` and `transfer`, and what they share."""
