"""What normalizing a run's slides takes: the target (checkpoint or classical reference), the tasks, the flows."""
