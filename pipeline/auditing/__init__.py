"""Whether a run's labels can be trusted: what is looked at, and every check."""
