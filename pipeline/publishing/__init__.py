"""Versions of a dataset: made, described, compared, sent out and laid out for other trainers."""
