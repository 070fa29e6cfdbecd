"""Moves shards: prompts in, preference pairs out. Importing it does no work; it chooses Arrow's allocator."""

import os

# Before pyarrow is there: else its C++ takes a pool of its own that keeps some 40 MB of what was freed, whatever `freed.py` asks.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
