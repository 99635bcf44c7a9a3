"""RankedLoader: the port `ModelLoader` for a model over several machines: ranks load their shards, the daemon the text.

Models are refused before any rank loads if possible: heads that ranks do not divide, families that cannot be spread.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from semanticd.adapters.ranks.executor import LoadOrder
from semanticd.adapters.ranks.formation import Formation
from semanticd.adapters.ranks.group import RankGroup
from semanticd.adapters.ranks.runner import RankedRunner
from semanticd.adapters.ranks.wire import spec_in
from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.application.ports.models import InstalledModel
from semanticd.domain.errors import ModelLoadError, OverloadedError
from semanticd.domain.ids import ModelId
from semanticd.domain.model_cache_spec import ModelCacheSpec

_SLICE_S = 0.005
_LOAD_LIMIT_S = 1800.0
"""Maximum time for loading on all ranks, in seconds; their answers to pings show that they are alive."""


class ModelText(Protocol):
    """The part of a model that is not spread."""

    def spread_of(self, installed: InstalledModel, *, world_size: int) -> str:
        """Return whether this many ranks share its heads (`tensor`) or layers (`pipeline`); reads only its config.

        Raises:
            ModelLoadError: The ranks can share neither.
        """

    def has_experts(self, installed: InstalledModel) -> bool:
        """Return whether the model routes tokens to experts."""

    def text(self, installed: InstalledModel) -> Tokenizer:
        """Read a model's tokenizer.

        Raises:
            ModelLoadError: The tokenizer cannot be loaded.
        """

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """See `ModelLoader`."""


FollowUp = Callable[[Formation, ModelCacheSpec], Sequence[Future[Any]]]


@dataclass(frozen=True, slots=True)
class ComputedAs:
    """Compute and storage options that all ranks share."""

    block_tokens: int
    precision: str
    cpu_math: bool


class RankedLoader:
    """Loads one model at a time, over all ranks; engine thread."""

    def __init__(
        self, group: RankGroup, text: ModelText, *, computed: ComputedAs, follow_up: FollowUp
    ) -> None:
        """`follow_up` lets the workers' disks follow what was deleted here while they were away."""
        self._group = group
        self._text = text
        self._computed = computed
        self._follow_up = follow_up

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Load a model in all ranks.

        Raises:
            ModelLoadError: A rank cannot load it, the ranks do not fit together, or they compute another model; caused
                by an `OverloadedError` where a rank is missing or was lost meanwhile.
        """
        world_size = self._group.world_size
        mode = self._text.spread_of(installed, world_size=world_size)
        self._refuse_a_second(installed)
        on_progress(0.0)
        yield from self._started_again()
        try:
            formation = self._group.form(installed.model_id)
        except OverloadedError as error:
            raise ModelLoadError(f"cannot load {installed.model_id}: {error.message}") from error
        try:
            if mode == "tensor":
                self._check_chips(formation, installed)
            with ThreadPoolExecutor(1, thread_name_prefix="semanticd-tokenizer") as beside:
                reading_text = beside.submit(self._text.text, installed)
                results = yield from self._loaded(formation, installed)
                spec = _common(results, fingerprint=installed.fingerprint)
                formation.fingerprint = str(spec.fingerprint)
                on_progress(0.9)
                yield from _done(formation, self._follow_up(formation, spec))
                yield from _done(formation, [reading_text])
                tokenizer = reading_text.result()
        except OverloadedError as error:
            formation.end(f"loading {installed.model_id} failed: {error.message}")
            raise ModelLoadError(f"cannot load {installed.model_id}: {error.message}") from error
        except BaseException:
            # The model is at fault, or the daemon stops (`GeneratorExit`): no machine was lost.
            formation.end(f"loading {installed.model_id} was given up", wanted=True)
            raise
        on_progress(1.0)
        return LoadedModel(
            model_id=ModelId(installed.model_id),
            fingerprint=installed.fingerprint,
            runner=RankedRunner(formation, spec=spec),
            tokenizer=tokenizer,
            context_length=installed.context_length,
            defaults=installed.defaults,
            settings_digest=installed.settings_digest,
            weights_bytes=results[0]["weights_bytes"],
            description={**_described(results[0]), "ranks": world_size, "spread": mode},
            kv_room_bytes=kv_room_bytes(results),
        )

    def _refuse_a_second(self, installed: InstalledModel) -> None:
        if (taken := self._group.why_taken(installed.model_id)) is not None:
            raise ModelLoadError(taken)

    def _started_again(self) -> Generator[None, None, None]:
        """Wait for ranks whose last formation ended a moment ago: their processes are starting again."""
        while self._group.is_starting_again and self._group.missing():
            yield
            time.sleep(_SLICE_S)

    def _check_chips(self, formation: Formation, installed: InstalledModel) -> None:
        """Refuse experts on different chips: a rank that rounds otherwise may choose others, and the sums be wrong."""
        chips = {member.introduction.computed_by for member in formation.members}
        if len(chips) > 1 and self._text.has_experts(installed):
            raise ModelLoadError(
                f"cannot spread {installed.model_id} over {len(chips)} kinds of chips ({', '.join(sorted(chips))}): "
                "its tokens choose experts, and all machines must choose the same ones; use machines of one chip family"
            )

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """Read a model's files; see `ModelLoader`."""
        self._refuse_a_second(installed)
        self._text.spread_of(installed, world_size=self._group.world_size)
        return self._text.check(installed)

    def _loaded(
        self, formation: Formation, installed: InstalledModel
    ) -> Generator[None, None, list[dict[str, Any]]]:
        names = (installed.model_id, installed.entry.name, installed.entry.source, installed.path)
        order = LoadOrder(
            ring=self._group.options.hosts.ring,
            names=tuple(dict.fromkeys(names)),
            fingerprint=str(installed.fingerprint),
            block_tokens=self._computed.block_tokens,
            precision=self._computed.precision,
            cpu_math=self._computed.cpu_math,
            limit_s=self._group.options.timeout_s,
        )
        # Whether all have the model comes first: who forms a ring waits for the others.
        yield from self._done_by_all(formation, "find", order)
        return (yield from self._done_by_all(formation, "load", order))

    @staticmethod
    def _done_by_all(
        formation: Formation, name: str, order: LoadOrder
    ) -> Generator[None, None, list[dict[str, Any]]]:
        step = formation.begin(name, order.sent())
        deadline = time.monotonic() + _LOAD_LIMIT_S
        while not formation.poll(step, wait_s=_SLICE_S):
            yield
            formation.check()
            if (failure := formation.failure_of(step)) is not None:
                raise failure
            if time.monotonic() > deadline:
                raise ModelLoadError(f"the ranks have not loaded {order.names[0]} in {_LOAD_LIMIT_S:.0f} s")
        results: list[dict[str, Any]] = formation.results(step)
        return results


def _done(formation: Formation, futures: Sequence[Future[Any]]) -> Generator[None, None, None]:
    while not all(future.done() for future in futures):
        yield
        formation.check()
        time.sleep(_SLICE_S)


def _described(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result["description"].items() if key != "layers"}


def kv_room_bytes(results: Sequence[dict[str, Any]]) -> int:
    """Return what KV may take at rank 0 so that no rank has too little for its part of it."""
    costs = [_cost(spec_in(result["spec"])) for result in results]
    return min(
        int(result["kv_budget_bytes"]) * costs[0] // cost for result, cost in zip(results, costs, strict=True)
    )


def _cost(spec: ModelCacheSpec) -> int:
    """Return what a block takes with the snapshot at its end."""
    return max(spec.stored_bytes(spec.block_tokens) + spec.state_bytes, 1)


def _common(results: Sequence[dict[str, Any]], *, fingerprint: object) -> ModelCacheSpec:
    """Return the layout of all ranks together: rank 0's sizes, and a name that each rank's own layout is part of."""
    spec = spec_in(results[0]["spec"])
    if any(result["spec"]["fingerprint"] != str(fingerprint) for result in results):
        raise ModelLoadError("the ranks loaded different models")
    layouts = "|".join(f"{result['layout']}:{result['description'].get('layers', '')}" for result in results)
    digest = hashlib.sha256(layouts.encode()).hexdigest()[:12]
    name = f"{results[0]['mode']}{len(results)}.{digest}"
    return replace(spec, compute_revision=f"{spec.compute_revision}-{name}")
