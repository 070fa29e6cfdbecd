"""A local web page on which people compare completions and look around in a run (docs/reviewing.md)."""
