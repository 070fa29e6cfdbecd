"""Moves shards: prompts in, preference pairs out. Importing it does no work."""
