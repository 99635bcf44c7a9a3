"""The engine rig around the real runner and a tiny random model of any family; a character is a token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
from semanticd.adapters.mlx.platform import cpu_math
from semanticd.adapters.mlx.text.stream_decoder import WindowStreamDecoder
from semanticd.application.ports.inference import LoadedModel
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint
from semanticd.domain.lookup import AUTO_DRAFTS
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.engine_rig import Answer, EngineRig
from tests.fakes.tiny_mlx import VOCAB, build
from tests.fakes.tokenizer import CharTokenizer

WITHOUT_END = SamplingParams(temperature=0, ignore_eos=True)
BLOCK = 16
FIRST_CHARACTER = 0x4E00


class IdTokenizer(CharTokenizer):
    """A character for every id, so that any random prompt has a text."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the characters' ids."""
        return [ord(character) - FIRST_CHARACTER for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the ids' characters."""
        return "".join(chr(FIRST_CHARACTER + token_id) for token_id in token_ids)

    def stream_decoder(self) -> WindowStreamDecoder:
        """Return the real decoder over these characters."""
        return WindowStreamDecoder(self.decode, silent=frozenset())


class LoadedRig(EngineRig):
    """The rig around a loaded model, which outlives it."""

    def __init__(self, model: LoadedModel, **more: Any) -> None:
        """Take the model's runner and tokenizer; `more` is for the engine's rig."""
        super().__init__(runner=model.runner, tokenizer=model.tokenizer, **more)  # type: ignore[arg-type]

    def check(self) -> None:
        """Fail where the engine failed, or something is held at rest."""
        self.store.check_integrity()
        assert "engine_failed" not in self.log.events("error"), self.log.lines
        assert self.runner.running_bytes() == 0


class CardRunner(MlxModelRunner):
    """A runner that takes MLX's device for a card with memory of its own."""

    device = "cuda"


class MlxRig(EngineRig):
    """The rig around a real runner."""

    def __init__(
        self,
        family: str,
        *,
        precision: StoragePrecision = "exact",
        seed: int = 0,
        block_tokens: int = BLOCK,
        runner_class: type[MlxModelRunner] = MlxModelRunner,
        max_drafts: int = AUTO_DRAFTS,
        **more: Any,
    ) -> None:
        """Build the family's model with these weights."""
        model = build(family, seed=seed)
        latent_attention.install(model)  # as the model loader does
        if mx.default_device() == mx.Device(mx.cpu):
            cpu_math.install(model)
        runner = runner_class(
            model,
            fingerprint=ModelFingerprint(f"{family}-{seed}".ljust(64, "0")),
            block_tokens=block_tokens,
            precision=precision,
            decoding=Decoding(max_drafts=max_drafts),
        )
        limits = more.pop("limits", SchedulerLimits(prefill_chunk=BLOCK, min_chunk=BLOCK))
        super().__init__(runner=runner, tokenizer=IdTokenizer(), limits=limits, **more)  # type: ignore[arg-type]

    def check(self) -> None:
        """Look for what was left behind."""
        self.store.check_integrity()
        assert self.expects_defect or "engine_failed" not in self.log.events("error"), self.log.lines
        assert self.store.ledger().locked_bytes == 0
        assert self.runner.running_bytes() == 0

    def tell(
        self, prompt: Sequence[int], *, agent: str = "a", max_tokens: int = 12, **more: Any
    ) -> tuple[list[int], Answer]:
        """Ask and return the answer's ids too."""
        answer = self.ask(prompt, agent=agent, max_tokens=max_tokens, sampling=WITHOUT_END, **more).answer()
        return list(self.tokenizer.encode(answer.text)), answer


def prompt_of(length: int, seed: int) -> list[int]:
    """Return random ids that a tokenizer of characters can carry."""
    source = random.Random(seed)
    return [source.randrange(4, VOCAB) for _ in range(length)]


def turns(seed: int) -> tuple[list[int], list[int]]:
    """Return a first prompt and what the user says next."""
    return prompt_of(75, seed), prompt_of(21, seed + 1)


def cold_answer(family: str, prompt: Sequence[int], **more: Any) -> list[int]:
    """Return the answer of an engine that has seen nothing."""
    with MlxRig(family, **more) as rig:
        return rig.tell(prompt)[0]
