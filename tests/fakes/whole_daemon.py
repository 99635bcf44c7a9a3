"""A whole daemon inside the process, on a real tiny model: everything of the composition but uvicorn's socket.

```
async with WholeDaemon(tmp_path, model=write_tiny_model(tmp_path / "tiny")) as daemon:
    answer = await daemon.chat("hello", agent="a")
```
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import Self

from semanticd.adapters.config import PathSettings, Settings
from semanticd.entrypoints import assembly, http_edge
from semanticd.entrypoints.bootstrap import close
from tests.fakes.asgi_client import Answer, AsgiClient, until
from tests.fakes.telemetry import RecordingBus, RecordingLog

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by a sample's name and sorted labels."""


class WholeDaemon:
    """The composition under `home`, with one loaded model."""

    def __init__(self, home: Path, *, model: Path, settings: Settings | None = None, **options: Any) -> None:
        """Put it together; `options` go to `assembly.assemble`."""
        chosen = settings or Settings()
        paths = PathSettings(models_dir=home / "models", runtime_dir=home / "run", log_dir=home / "logs")
        self.settings = replace(chosen, paths=paths, agent=replace(chosen.agent, cache_dir=home / "caches"))
        self.log: Any = options.pop("log", None) or RecordingLog()
        self.parts = assembly.assemble(
            self.settings,
            bus=RecordingBus(listening=False),
            log=self.log,
            state=lambda: "ready",
            facts={},
            **options,
        )
        server = http_edge.http_server(self.parts, self.settings, log=self.log, state=lambda: "ready")
        self.client = AsgiClient(server.config.app)  # type: ignore[arg-type]
        self._model = model

    async def __aenter__(self) -> Self:
        """Start the engine and load the model."""
        self.parts.engine.start()
        await self.parts.models.load(str(self._model))
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop in the daemon's order."""
        await asyncio.to_thread(close, self.parts)

    async def chat(self, text: str, *, agent: str, max_tokens: int = 8, **more: Any) -> Answer:
        """Ask the OpenAI chat API greedily."""
        options = {name: more.pop(name) for name in ("headers", "leave", "answer") if name in more}
        options["headers"] = {"x-session-id": agent, **options.get("headers", {})}
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
            "temperature": 0,
            **more,
        }
        return await self.client.post("/v1/chat/completions", body, **options)

    async def samples(self) -> Samples:
        """Return the present values at `/metrics`."""
        page = (await self.client.get("/metrics")).content.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def written(self) -> None:
        """Wait until nothing is on its way to the disk."""
        store = self.parts.store
        await until(lambda: self.parts.engine.num_unanswered == 0 and store.num_writing == 0)
