"""A dataset that is kept up to date: once on command, or at set times."""
