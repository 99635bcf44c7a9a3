"""EarlierAnswers: each agent's earlier answers in memory, for drafts; they are never used for another agent.

Bounded: an agent's by tokens, all together by bytes; the agent that answered least recently is forgotten first. They
are guesses for what an answer may be and nothing else: losing them costs steps only, and none is kept on disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.ids import AgentId, ModelFingerprint
from semanticd.domain.limits import LIMITS


class EarlierAnswers:
    """Earlier answers by agent, then by model, whose token ids mean nothing to another; callable from any thread."""

    def __init__(
        self, *, max_tokens: int = LIMITS.earlier_tokens, max_bytes: int = LIMITS.earlier_bytes
    ) -> None:
        """Keep `max_tokens` of an agent and a model, and `max_bytes` in all."""
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._texts: OrderedDict[AgentId, dict[tuple[ModelFingerprint, str], EarlierText]] = OrderedDict()
        """Least recently answered first."""
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that all of them take, by estimate."""
        return self._num_bytes

    def of(self, agent_id: AgentId, model: tuple[ModelFingerprint, str]) -> EarlierText | None:
        """Return an agent's answers with a model (see `LoadedModel.content`); None: none are known."""
        with self._lock:
            return self._texts.get(agent_id, {}).get(model)

    def remember(
        self,
        agent_id: AgentId,
        model: tuple[ModelFingerprint, str],
        *,
        prompt: Sequence[int],
        answer: Sequence[int],
    ) -> EarlierText:
        """Add an answer; returns the agent's answers with this model, including this one."""
        with self._lock:
            texts = self._texts.setdefault(agent_id, {})
            self._texts.move_to_end(agent_id)
            known = texts.pop(model, None)
            text = (known or EarlierText()).with_answer(prompt, answer, max_tokens=self._max_tokens)
            texts[model] = text
            self._num_bytes += text.num_bytes - (known.num_bytes if known is not None else 0)
            while self._num_bytes > self._max_bytes:
                self._drop_oldest()
            return text

    def forget(self, agent_id: AgentId) -> None:
        """Forget an agent's answers."""
        with self._lock:
            for text in self._texts.pop(agent_id, {}).values():
                self._num_bytes -= text.num_bytes

    def forget_all(self) -> None:
        """Forget what all agents answered."""
        with self._lock:
            self._texts.clear()
            self._num_bytes = 0

    def _drop_oldest(self) -> None:
        """Forget the answers by one model of the agent that answered least recently, those that are older."""
        agent_id, texts = next(iter(self._texts.items()))
        self._num_bytes -= texts.pop(next(iter(texts))).num_bytes
        if not texts:
            del self._texts[agent_id]
