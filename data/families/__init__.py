"""The five families. Each is one function: `draw(rng)` gives a question, its target, a good and a bad answer."""

from data.families import estimates, functions, records, stdlib, texts
from data.families.task import Family, Task

FAMILIES: dict[str, Family] = {
    "functions": functions.draw,
    "records": records.draw,
    "estimates": estimates.draw,
    "texts": texts.draw,
    "stdlib": stdlib.draw,
}

__all__ = ["FAMILIES", "Family", "Task"]
