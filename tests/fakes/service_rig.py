"""The application's services over a whole engine with hash models, for tests that speak to their public methods.

```
async with ServiceRig() as rig:
    result = await rig.say("hello", agent="a")
```
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Self

from semanticd.application.generation.embedding import EmbeddingService
from semanticd.application.generation.places import ReadingPlaces
from semanticd.application.generation.recorder import TurnRecorder
from semanticd.application.generation.say import Chat
from semanticd.application.generation.service import GenerateService
from semanticd.application.generation.stream import EngineStream
from semanticd.application.generation.text_tokens import TextTokensService
from semanticd.application.ports.agent_export import AgentExportFile
from semanticd.application.ports.inference import Tokenizer
from semanticd.application.ports.ranks import Ranks
from semanticd.application.services.agent_export import AgentExporter
from semanticd.application.services.agents import AgentsService
from semanticd.application.services.arrivals import Arrivals
from semanticd.application.services.cache import CacheService
from semanticd.application.services.changed_files import ChangedFiles
from semanticd.application.services.history import History
from semanticd.application.services.model_memory import ModelMemory
from semanticd.application.services.model_names import ModelNames
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.model_routing import ModelRouting
from semanticd.application.services.model_use import ModelUse
from semanticd.application.services.models import ModelsService
from semanticd.application.services.observations import Observations
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.savings import Savings
from semanticd.application.services.status import DaemonIdentity, RequestsService, StatusService
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.application.services.waits import Waits
from semanticd.domain.chat import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt
from semanticd.domain.generation import GenerationRequest, GenerationResult, SamplingParams
from semanticd.domain.ids import AgentId, RequestId
from semanticd.domain.memory_plan import DeviceMemory
from tests.fakes.engine_rig import PATIENCE_S, EngineRig, wait_until
from tests.fakes.model_runner import HashRunner
from tests.fakes.model_source import HashLoader, MemoryModelSource

GREEDY_8 = SamplingParams(temperature=0, max_tokens=8)
LONG = SamplingParams(temperature=0, max_tokens=3000)


class ServiceRig:
    """All services; the model `one` is loaded, `two` and `three` are installed, `four` can be pulled."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        has_state: bool = False,
        context_length: int = 4096,
        max_drafts: int = 0,
        memory_bytes: int = 1_000_000,
        load_on_demand: bool = False,
        move_volatile: bool = False,
        export_file: AgentExportFile | None = None,
        load: bool = True,
        device: DeviceMemory | None = None,
        ranks: Ranks | None = None,
        **engine: Any,
    ) -> None:
        """Wire it; `engine` goes to the `EngineRig`."""
        self.engine_rig = EngineRig(**engine)
        self.engine = self.engine_rig.engine
        self.store = self.engine_rig.store
        self.clock = self.engine_rig.clock
        self.bus = self.engine_rig.bus
        self.source = MemoryModelSource(installed=("one", "two", "three"), others=("four",))
        self.loader = HashLoader(
            tokenizer=tokenizer, has_state=has_state, context_length=context_length, max_drafts=max_drafts
        )
        self.free_memory: Callable[[], int] = lambda: memory_bytes
        """What the models service is given as the memory (bytes) that is left for models."""
        self._export_file = export_file
        self._load = load
        self._load_on_demand = load_on_demand
        self._move_volatile = move_volatile
        self._device = device
        self._ranks = ranks
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        """Start the engine and load the first model."""
        self.use, self.progress = ModelUse(self.clock), ModelProgress(self.engine_rig.telemetry)
        names = ModelNames(
            engine=self.engine,
            source=self.source,
            use=self.use,
            changed=ChangedFiles(source=self.source, clock=self.clock),
        )
        self.models = ModelsService(
            engine=self.engine,
            source=self.source,
            loader=self.loader,
            use=self.use,
            names=names,
            memory=ModelMemory(
                engine=self.engine,
                source=self.source,
                free_bytes=lambda: self.free_memory(),
                device=self._device,
            ),
            progress=self.progress,
        )
        self.models.ranks = ranks = self._ranks
        if ranks is not None:
            names.awaited = lambda: ranks.awaited
        routing = ModelRouting(
            engine=self.engine,
            models=self.models,
            source=self.source,
            names=names,
            use=self.use,
            progress=self.progress,
            load_on_demand=self._load_on_demand,
        )
        self.responses = StoredResponses()
        self.outcomes = Outcomes(clock=self.clock)
        self.savings = Savings(clock=self.clock, metrics=self.engine_rig.metrics)
        arrivals = Arrivals(clock=self.clock, progress=self.progress)
        waits = Waits(self.engine_rig.scheduler, arrivals)
        observations = Observations(
            arrivals, waits, self.outcomes, self.savings, self.progress, names.warnings
        )
        self.agents = AgentsService(
            engine=self.engine,
            agents=self.engine_rig.agents,
            cache=self.engine_rig.cache,
            exporter=AgentExporter(
                engine=self.engine,
                store=self.store,
                clock=self.clock,
                export_file=self._export_file,
            ),
            observations=observations,
            clock=self.clock,
            responses=self.responses,
        )
        self.requests = RequestsService(engine=self.engine, clock=self.clock, observations=observations)
        self.status = StatusService(
            engine=self.engine,
            store=self.store,
            use=self.use,
            warm=self.engine_rig.warm,
            observations=observations,
            clock=self.clock,
            daemon=DaemonIdentity(
                {"version": "0"},
                lambda: "ready",
                num_unsaved=lambda: (self.engine_rig.agents.num_unsaved, self.responses.num_refused),
                free_memory_bytes=lambda: self.free_memory(),
                ranks=self._ranks,
            ),
        )
        self.history = History(
            status=self.status,
            requests=self.requests,
            outcomes=self.outcomes,
            savings=self.savings,
            clock=self.clock,
            log=self.engine_rig.log,
        )
        recorder = self.recorder = TurnRecorder(
            engine=self.engine,
            agents=self.engine_rig.agents,
            metrics=self.engine_rig.metrics,
            log=self.engine_rig.log,
            savings=self.savings,
            history=self.history,
        )
        places = ReadingPlaces(self.engine_rig.queue)
        self.tokens = TextTokensService(routing=routing, places=places, move_volatile=self._move_volatile)
        self.generate = GenerateService(
            engine=self.engine,
            agents=self.engine_rig.agents,
            routing=routing,
            places=places,
            recorder=recorder,
            arrivals=arrivals,
            move_volatile=self._move_volatile,
        )
        self.embedding = EmbeddingService(
            engine=self.engine,
            routing=routing,
            places=places,
            clock=self.clock,
            metrics=self.engine_rig.metrics,
        )
        self.chat = Chat(generate=self.generate, agents=self.agents)
        self.cache = CacheService(
            engine=self.engine,
            store=self.store,
            agents=self.engine_rig.agents,
            warm=self.engine_rig.warm,
            status=self.status,
        )
        self.engine.start()
        if self._load:
            await self.models.load("one")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop the engine."""
        await asyncio.to_thread(self.engine.stop)
        if error[0] is None:
            assert "engine_failed" not in self.engine_rig.log.events("error"), self.engine_rig.log.lines
            self.store.check_integrity()

    @property
    def runner(self) -> HashRunner:
        """The first model's runner."""
        return self.loader.runners["one"]

    def request(
        self,
        prompt: Prompt | str | Sequence[Message],
        *,
        agent: str | None = None,
        sampling: SamplingParams = GREEDY_8,
        model: str = "",
        **more: Any,
    ) -> GenerationRequest:
        """Make a request; text becomes a user's message."""
        if isinstance(prompt, str):
            prompt = ChatPrompt((Message.of("user", prompt),))
        elif not isinstance(prompt, ChatPrompt | TextPrompt | TokenPrompt):
            prompt = ChatPrompt(tuple(prompt))
        return GenerationRequest(
            request_id=RequestId(f"request-{next(self._ids)}"),
            model=model,
            prompt=prompt,
            sampling=sampling,
            agent_id=None if agent is None else AgentId(agent),
            **more,
        )

    async def open(self, prompt: Any, **more: Any) -> EngineStream:
        """Admit a request."""
        return await asyncio.wait_for(self.generate.open(self.request(prompt, **more)), PATIENCE_S)

    async def begin(self, prompt: Any, **more: Any) -> EngineStream:
        """Admit a request whose answer is long and takes its time, and wait until some of it is there."""

        def dawdle(operation: str) -> None:
            if operation == "decode":
                time.sleep(0.005)

        self.runner.before = dawdle
        stream = await self.open(prompt, **{"sampling": LONG, **more})
        answering = lambda: any(live.sequence.output_ids for live in self.engine.running())  # noqa: E731
        await asyncio.to_thread(wait_until, answering, "an answer's beginning")
        return stream

    async def say(self, prompt: Any, **more: Any) -> GenerationResult:
        """Ask, and wait for the whole answer."""
        stream = await self.open(prompt, **more)
        return await asyncio.wait_for(stream.result(), PATIENCE_S)
