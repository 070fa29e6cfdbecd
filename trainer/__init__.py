"""Turns preference pairs into a better model. Meets `pipeline` only in the columns of docs/format.md."""
