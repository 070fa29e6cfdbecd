"""What a run may cost, has cost and will cost."""
