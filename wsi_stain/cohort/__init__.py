"""What a cohort's slides are beside each other: which of them can be its reference, and which share a scanner."""
