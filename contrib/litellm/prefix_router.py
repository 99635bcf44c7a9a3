"""Sends each prompt of a LiteLLM router to the daemon where most of it is cached.

In a program of yours (LiteLLM 1.110; `pip install litellm`):

    from litellm import Router
    from prefix_router import install

    daemons = ["http://mac-1:8000/v1", "http://mac-2:8000/v1"]
    params = {"model": "openai/default", "api_key": "…"}
    group = [{"model_name": "local", "litellm_params": {**params, "api_base": one}} for one in daemons]
    router = Router(model_list=group)
    install(router)

`python contrib/litellm/prefix_router.py --help` scores a prompt at some daemons without LiteLLM. Every daemon is asked
(`POST /v1/prefix/lookup`) at the same time; one that does not answer within half a second is passed over. The cost of a
prompt is the tokens that would be computed, plus a fraction of those that would be read: an eighth from a peer, a
fortieth from a disk. Daemons that cost nearly the same are equals, lest all agents follow a few words that they share;
among equals an agent keeps its daemon, by a hash of agent and address. Load is not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

TIMEOUT_S = 0.5
PEER, WARM = 1 / 8, 1 / 40
"""What a token costs that is read from a peer, or from the disk, as a part of one that is computed."""

NEARLY = 256
"""Computed tokens by which two daemons may differ and be equals."""


def cost(found: Mapping[str, int]) -> float:
    """Return what a prompt costs where its tokens lie like this, in computed tokens."""
    return found["missing_tokens"] + PEER * found["peer_tokens"] + WARM * found["warm_tokens"]


def preference(agent: str, address: str) -> str:
    """Return the place of an address in an agent's own order (rendezvous hashing: few agents move with a machine)."""
    return hashlib.sha256(f"{agent}\0{address}".encode()).hexdigest()


class PrefixStrategy:
    """A routing strategy of LiteLLM's: chooses among the deployments of a model group."""

    def __init__(
        self, model_list: Sequence[Mapping[str, Any]], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Choose among these, as `Router` was given them; `transport` is for tests."""
        self._deployments = list(model_list)
        self._transport = transport

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, Any]] | None = None,
        input: str | list[Any] | None = None,  # noqa: A002 (LiteLLM's name)
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Return the deployment of this group where the prompt costs least; without messages the agent's first one."""
        group = [one for one in self._deployments if one["model_name"] == model]
        if not group:
            raise ValueError(f"no deployment serves {model!r}")
        agent = agent_of(request_kwargs or {})
        tools = (request_kwargs or {}).get("tools")
        costs = (
            await self.costs(group, messages, tools) if messages and len(group) > 1 else [0.0] * len(group)
        )
        least = min(costs)
        equals = [one for one, its_cost in zip(group, costs, strict=True) if its_cost <= least + NEARLY]
        return min(equals, key=lambda one: preference(agent, address_of(one)))

    def get_available_deployment(self, *args: Any, **options: Any) -> Mapping[str, Any]:
        """Do the same in a program without an event loop."""
        return asyncio.run(self.async_get_available_deployment(*args, **options))

    async def costs(
        self, group: Sequence[Mapping[str, Any]], messages: list[dict[str, Any]], tools: Any
    ) -> list[float]:
        """Return a prompt's cost at each deployment; infinite where none was said in time."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport, trust_env=False) as client:
            return list(await asyncio.gather(*(self._cost(client, one, messages, tools) for one in group)))

    async def _cost(
        self, client: httpx.AsyncClient, one: Mapping[str, Any], messages: list[dict[str, Any]], tools: Any
    ) -> float:
        params = one["litellm_params"]
        headers = {"Authorization": f"Bearer {params['api_key']}"} if params.get("api_key") else {}
        body = {"model": params["model"].removeprefix("openai/"), "messages": messages}
        if tools:
            body["tools"] = tools
        try:
            answer = await asyncio.wait_for(
                client.post(
                    f"{address_of(one)}/v1/prefix/lookup?path=/v1/chat/completions",
                    json=body,
                    headers=headers,
                ),
                TIMEOUT_S,
            )
            return cost(answer.raise_for_status().json())
        except (httpx.HTTPError, asyncio.TimeoutError, ValueError, KeyError, TypeError):
            return float("inf")


def address_of(deployment: Mapping[str, Any]) -> str:
    """Return where a deployment's daemon listens."""
    return str(deployment["litellm_params"]["api_base"]).rstrip("/").removesuffix("/v1")


def agent_of(request: Mapping[str, Any]) -> str:
    """Return whose request it is, as the daemon finds out; empty: the request does not name it."""
    headers = {name.lower(): value for name, value in (request.get("extra_headers") or {}).items()}
    return str(headers.get("x-session-id") or request.get("prompt_cache_key") or request.get("user") or "")


def install(router: Any) -> PrefixStrategy:
    """Let a `litellm.Router` choose by prefix from now on."""
    strategy = PrefixStrategy(router.model_list)
    # Older versions have only the second name.
    register = getattr(router, "register_plugin", None) or router.set_custom_routing_strategy
    register(strategy)
    return strategy


def main() -> None:
    """Score a prompt at some daemons."""
    parser = argparse.ArgumentParser(
        description="What a prompt would cost at each daemon, in computed tokens."
    )
    parser.add_argument("address", nargs="+", help="such as http://mac-1:8000")
    parser.add_argument("--prompt", default="Name a river.", help="what the user says")
    parser.add_argument("--key", help="the daemons' API key")
    chosen = parser.parse_args()
    group = [
        {
            "model_name": "local",
            "litellm_params": {"model": "default", "api_base": address, "api_key": chosen.key},
        }
        for address in chosen.address
    ]
    messages = [{"role": "user", "content": chosen.prompt}]
    for address, found in zip(
        chosen.address, asyncio.run(PrefixStrategy(group).costs(group, messages, None)), strict=True
    ):
        print(f"{found:10.1f}  {address}")


if __name__ == "__main__":
    main()
