"""Length of the slices of a long computation between steps that other requests wait for.

```
no other work       a slice lasts about `alone_s`, which is how long a new request may have to wait
others work         slices last `contended_s` at most, and take `share` of the time in all
```
Time that others worked is credit; a slice is paid for with what it took, also where that was more than was expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from semanticd.domain.ids import ModelId


@dataclass(slots=True)
class SliceBudget:
    """Sizes slices by the measured speed of each model; times in seconds, sizes in tokens."""

    share: float = 0.25
    contended_s: float = 0.05
    alone_s: float = 0.2
    min_tokens: int = 16
    efficient_tokens: int = 128
    """Smaller slices cost noticeably more a token; only work that must continue is worth that."""
    max_tokens: int = 2048
    _rates: dict[ModelId, float] = field(default_factory=dict)
    _credit_s: float = 0.0

    def others_worked(self, seconds: float) -> None:
        """Note for how long others had the engine."""
        self._credit_s = min(self._credit_s + seconds * self.share / (1 - self.share), self.contended_s)

    def num_tokens(self, model_id: ModelId, *, contended: bool) -> int:
        """Return the size of the next slice; 0: it is the others' turn."""
        rate = self._rates.get(model_id, 0.0)
        if not contended:
            return self._within(max(rate * self.alone_s, self.efficient_tokens)) if rate else self.min_tokens
        # A slice that costs more than all the credit there can be waits for all of it.
        cost_s = min(self.min_tokens / rate, self.contended_s) if rate else self.contended_s
        return self._within(rate * self._credit_s) if self._credit_s >= cost_s else 0

    def record(self, model_id: ModelId, *, num_tokens: int, seconds: float, contended: bool) -> None:
        """Account a slice."""
        if seconds > 0:
            rate, known = num_tokens / seconds, self._rates.get(model_id)
            self._rates[model_id] = rate if known is None else (known + rate) / 2
        self._credit_s = self._credit_s - seconds if contended else 0.0

    def _within(self, num_tokens: float) -> int:
        return int(min(max(num_tokens, self.min_tokens), self.max_tokens))
