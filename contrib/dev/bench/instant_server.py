"""semanticd's HTTP application over its real services and engine, with a model that costs nothing to run.

Usage: `python -m contrib.dev.bench.instant_server PORT`. What a request costs here is what semanticd adds to the model.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import uvicorn

from semanticd.adapters.event_loop import new_event_loop
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.server import server_config
from semanticd.application.ports.telemetry import NullLog, NullMetrics
from tests.fakes.http_services import make_services
from tests.fakes.service_rig import ServiceRig


async def serve(port: int) -> None:
    """Serve until interrupted."""
    async with ServiceRig() as rig:
        services = make_services(
            generator=rig.generate,  # type: ignore[arg-type]
            agents=rig.agents,
            models=rig.models,
            cache=rig.cache,
            log_context=lambda **fields: nullcontext(),
        )
        app = create_app(services, HttpConfig())
        config = server_config(app, log=NullLog(), metrics=NullMetrics(), host="127.0.0.1", port=port)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    new_event_loop().run_until_complete(serve(parser.parse_args().port))
