"""The prompts and the tiny model of the quick start, and what makes them again from nothing."""
