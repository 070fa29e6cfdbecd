"""Whether the data makes a better model: held-out measures, rounds, and pair rules against each other."""
