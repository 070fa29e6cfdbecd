"""The report of a run: one HTML file and PNGs from which a person sees in ten seconds whether the dataset is any good."""
