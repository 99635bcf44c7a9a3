"""Seeded text of a wanted length: the same seed and label give the same words on every machine.

Texts of different labels share no beginning, so a server cannot have one cached because of another. How many tokens
a word takes is learned from the server's own count.
"""

from __future__ import annotations

import random

WORDS = [
    "stone",
    "river",
    "light",
    "paper",
    "garden",
    "window",
    "silver",
    "morning",
    "letter",
    "music",
    "forest",
    "engine",
    "copper",
    "winter",
    "bridge",
    "market",
    "corner",
    "summer",
    "yellow",
    "island",
    "station",
    "kitchen",
    "harbor",
    "mountain",
    "picture",
    "village",
    "number",
    "table",
    "green",
    "water",
    "horse",
    "train",
    "metal",
    "glass",
    "field",
    "cloud",
    "storm",
    "candle",
    "button",
    "pocket",
    "ladder",
    "basket",
    "bottle",
    "mirror",
    "carpet",
    "hammer",
]


class TextSource:
    """Makes prompts of about a wanted number of tokens."""

    def __init__(self, seed: int) -> None:
        """Until `calibrate` was called, a word counts as one token."""
        self._seed = seed
        self.tokens_per_word = 1.0

    def words(self, label: str, num_words: int) -> str:
        """Return a number of words; the first ones distinguish labels."""
        choose = random.Random(f"{self._seed}/{label}")  # noqa: S311 (text, no secret)
        return " ".join(choose.choice(WORDS) for _ in range(max(1, num_words))) + "."

    def prompt(self, label: str, num_tokens: int) -> str:
        """Return words that take about `num_tokens` tokens."""
        return self.words(label, round(num_tokens / self.tokens_per_word))

    def calibrate(self, *, num_words: int, num_tokens: int) -> None:
        """Update the ratio of words to tokens by what the server counted."""
        if num_tokens > 0:
            self.tokens_per_word = num_tokens / num_words
