"""A run to look at while it works and when it is done: bars, status, metrics, logs, and what came of it."""
