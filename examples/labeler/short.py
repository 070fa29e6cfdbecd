from dataclasses import dataclass

from labelers.types import Example, Needs, Prompt, Score


@dataclass(frozen=True)
class Short:
    """Prefers completions of at most `limit` characters."""

    limit: int = 100
    """The most characters that pass."""

    name, version, needs = "short", "1", Needs()
    examples = [Example(Prompt.of("Say hi"), better="hi", worse="x" * 200)]
    pass_at = 1.0

    def score(self, batch, ctx):
        return [Score(float(len(c.completion.text) <= self.limit)) for c in batch]
