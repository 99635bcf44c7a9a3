"""The table of contents of the control protocol: one function per command, in the order of the protocol page.

Rule: a command checks nothing and decides nothing. Its arguments were checked against the table, it calls one
method of one service, and what that raises is translated by the server. `hello`, `ping`, `subscribe` and
`unsubscribe` belong to the connection and are answered by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from semanticd.adapters.control.arguments import Argument, ArgumentError
from semanticd.adapters.control.services import Facts, Services
from semanticd.application.services.plain import plain
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.errors import DaemonError

_T = TypeVar("_T")


class NotAvailableError(DaemonError):
    """This daemon runs without the service behind a command."""

    code = "not_available"


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The services that a command may use."""

    services: Services
    client: str = ""
    """The client's name from `hello`; for the log."""


Run = Callable[[CommandContext, Mapping[str, Any]], Awaitable[object]]
"""Returns a result of a service, or a dictionary that holds some; `run_command` makes it plain."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command: its name, its arguments, and its function."""

    name: str
    arguments: tuple[Argument, ...]
    run: Run
    summary: str


COMMANDS: dict[str, CommandSpec] = {}


async def run_command(spec: CommandSpec, context: CommandContext, args: Mapping[str, Any]) -> Facts:
    """Run a command with checked arguments; returns the result as it is published."""
    result: Facts = plain(await spec.run(context, args))
    return result


def command(name: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Enter the decorated function into the table."""

    def enter(run: Run) -> Run:
        COMMANDS[name] = CommandSpec(name, arguments, run, (run.__doc__ or "").splitlines()[0])
        return run

    return enter


def need(service: _T | None, what: str) -> _T:
    """Return the service, or raise `NotAvailableError` naming it."""
    if service is None:
        raise NotAvailableError(f"this daemon cannot do that now: {what} is not available")
    return service


_AGENT = Argument("agent", meaning="the agent's id")
_MODEL = Argument("model", meaning="a name from the registry, `hf:org/name`, or a folder or file")
_TIMEOUT = Argument("timeout_s", "number", "seconds that running requests get to finish", default=None)


@command("status")
async def status(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The daemon in numbers: state, address, models, engine, cache."""
    return await need(context.services.status, "status").snapshot()


@command("config.show")
async def config_show(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The settings in effect and where each came from, secrets masked."""
    return await need(context.services.config, "the configuration").show()


@command(
    "doctor",
    Argument("generate", "flag", "also generate a few tokens with the current model", default=True),
)
async def doctor(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Examine the installation; every finding says what to do."""
    return await need(context.services.doctor, "the doctor").run(args["generate"])


@command("drain", _TIMEOUT)
async def drain(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Take no new requests; running ones finish."""
    return await need(context.services.lifecycle, "stopping").drain(args["timeout_s"])


@command("shutdown", _TIMEOUT, Argument("now", "flag", "cancel running requests", default=False))
async def shutdown(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Drain, persist and exit; the reply comes before the end."""
    return await need(context.services.lifecycle, "stopping").shutdown(args["timeout_s"], args["now"])


@command("log.level", Argument("level", choices=("debug", "info", "warning", "error")))
async def log_level(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Log from this level on, until the daemon ends."""
    return await need(context.services.log, "the log").set_level(args["level"])


@command("log.recent")
async def log_recent(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The last lines of the log, oldest first."""
    return {"lines": need(context.services.log, "the log").recent()}


@command(
    "history",
    Argument("step_s", "integer", "seconds a sample: 1 (ten minutes are kept) or 10 (an hour)", default=1),
    Argument("after", "integer", "only samples with a larger number", default=-1, minimum=-1),
)
async def history(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The last hour in numbers: rates, queue, evictions, failures."""
    if args["step_s"] not in (1, 10):
        raise ArgumentError(f"argument 'step_s' is {args['step_s']}: expected 1 or 10")
    return need(context.services.history, "the history").facts(step_s=args["step_s"], after=args["after"])


@command(
    "agents.list",
    Argument("limit", "integer", "page length; default: all", default=None, minimum=1),
    Argument("after", meaning="the last agent of the previous page", default=None),
    Argument(
        "order",
        meaning="sort order",
        choices=("used", "created", "tokens", "turns", "name"),
        default="used",
    ),
    Argument("name", meaning="only ids that contain this text", default=None),
    Argument(
        "words",
        meaning="only agents whose id or model contains each of these words",
        default="",
        max_chars=200,
    ),
    Argument("model", meaning="only agents of this model", default=None),
    Argument(
        "pinned",
        "flag",
        "only agents that are pinned or have an expired pin; false: the others",
        default=None,
    ),
    Argument("anonymous", "flag", "only agents without a name of their own; false: the others", default=None),
)
async def agents_list(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Agents, most recently used first, and where the next page begins."""
    query = AgentQuery(
        limit=args["limit"],
        after=args["after"],
        order=args["order"],
        name=args["name"],
        words=tuple(args["words"].split()),
        model_id=args["model"],
        anonymous=args["anonymous"],
        pinned=args["pinned"],
    )
    return await need(context.services.agents, "the engine").page(query)


@command("agents.show", _AGENT)
async def agents_show(context: CommandContext, args: Mapping[str, Any]) -> object:
    """One agent: facts, configuration, turns."""
    return await need(context.services.agents, "the engine").show(args["agent"])


@command("agents.messages", _AGENT)
async def agents_messages(context: CommandContext, args: Mapping[str, Any]) -> object:
    """One agent's conversation, as far as the daemon keeps it."""
    return {"messages": await need(context.services.agents, "the engine").messages(args["agent"])}


@command(
    "agents.say",
    _AGENT,
    Argument("text", meaning="the message", max_chars=1_000_000),
    Argument("fork", "flag", "send it to a new fork", default=False),
    Argument(
        "max_tokens",
        "integer",
        "maximum tokens of the answer; default: as many as fit",
        default=None,
        minimum=1,
    ),
)
async def agents_say(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Send a message to an agent (a new id creates one) and wait for the answer; topic `tokens` streams its text."""
    chat = need(context.services.chat, "the engine")
    return await chat.say(args["agent"], args["text"], fork=args["fork"], max_tokens=args["max_tokens"])


@command("agents.why", _AGENT)
async def agents_why(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Return what an agent's last requests reused, restored and computed, and the cause of each miss."""
    return await need(context.services.agents, "the engine").why(args["agent"])


@command(
    "agents.pin",
    _AGENT,
    Argument("ttl_s", "number", "seconds until the pin ends; default: it stays", default=None, above=0),
)
async def agents_pin(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Keep an agent's blocks from eviction."""
    return await need(context.services.agents, "the engine").pin(args["agent"], args["ttl_s"])


@command("agents.unpin", _AGENT)
async def agents_unpin(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Let an agent's blocks be evicted again."""
    return await need(context.services.agents, "the engine").unpin(args["agent"])


@command(
    "agents.fork", _AGENT, Argument("new_id", meaning="the copy's id; default: a generated one", default=None)
)
async def agents_fork(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Make an agent with the same conversation; the blocks are shared."""
    return await need(context.services.agents, "the engine").fork(args["agent"], args["new_id"])


@command(
    "agents.rewind", _AGENT, Argument("turns", "integer", "number of turns to remove", default=1, minimum=1)
)
async def agents_rewind(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Forget an agent's last turns; the rest stays cached."""
    return await need(context.services.agents, "the engine").rewind(args["agent"], args["turns"])


@command("agents.evict", _AGENT)
async def agents_evict(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Move an agent's blocks from RAM to disk."""
    return await need(context.services.agents, "the engine").evict(args["agent"])


@command("agents.delete", _AGENT)
async def agents_delete(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Forget an agent and the blocks that only it uses."""
    return await need(context.services.agents, "the engine").delete(args["agent"])


@command("agents.export", _AGENT, Argument("path", meaning="absolute path of the file to write"))
async def agents_export(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Write an agent export: the agent and its blocks in one file."""
    return await need(context.services.agents, "the engine").export(args["agent"], args["path"])


@command(
    "agents.import",
    Argument("path", meaning="absolute path of an agent export"),
    Argument("new_id", meaning="id of the new agent; default: the one in the export", default=None),
    Argument("trust", "flag", "let other agents share its blocks and texts", default=False),
)
async def agents_import(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Read an agent export."""
    agents = need(context.services.agents, "the engine")
    return await agents.import_(args["path"], args["new_id"], trust=args["trust"])


@command("models.list")
async def models_list(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Known models: loaded, installed, and those that can be pulled."""
    return {"models": await need(context.services.models, "the model registry").list()}


@command("models.info", _MODEL)
async def models_info(context: CommandContext, args: Mapping[str, Any]) -> object:
    """One model's facts."""
    return await need(context.services.models, "the model registry").info(args["model"])


@command("models.pull", _MODEL)
async def models_pull(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Fetch a model's files; progress on the topic `models`."""
    return await need(context.services.models, "the model registry").pull(args["model"])


@command("models.rm", _MODEL)
async def models_rm(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Delete a model's files; not while it is loaded."""
    return await need(context.services.models, "the model registry").remove(args["model"])


@command("models.load", _MODEL)
async def models_load(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Load a model alongside the present ones; progress on the topic `models`."""
    return await need(context.services.models, "the engine").load(args["model"])


@command("models.unload", _MODEL)
async def models_unload(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Free a model's memory once its requests are answered."""
    return await need(context.services.models, "the engine").unload(args["model"])


@command("models.swap", _MODEL)
async def models_swap(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Make a model the current one without failing a request; progress on the topic `models`."""
    return await need(context.services.models, "the engine").swap(args["model"])


@command("cache.stats")
async def cache_stats(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The cache's byte ledger, tiers and counters."""
    return await need(context.services.cache, "the cache").stats()


@command("cache.sizes")
async def cache_sizes(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Return the disk usage of each model's stored blocks."""
    return {"models": await need(context.services.cache, "the cache").sizes()}


@command("cache.verify", Argument("fix", "flag", "quarantine broken blocks", default=False))
async def cache_verify(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Check every stored block against the index and its checksum."""
    return await need(context.services.cache, "the cache").verify(args["fix"])


@command(
    "cache.prune",
    Argument("target_bytes", "integer", "target size; default: the cap", default=None, maximum=2**53),
    Argument("dry_run", "flag", "remove nothing; report how much would be freed", default=False),
)
async def cache_prune(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Remove the least recently used stored blocks."""
    cache = need(context.services.cache, "the cache")
    return await cache.prune(args["target_bytes"], dry_run=args["dry_run"])


@command("cache.clear")
async def cache_clear(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Drop every block that no running request uses, in RAM and on disk."""
    return await need(context.services.cache, "the cache").clear()


@command("requests.list")
async def requests_list(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Running and waiting requests."""
    return {"requests": await need(context.services.requests, "the engine").list()}


@command("requests.prompt", Argument("request", meaning="the request's id"))
async def requests_prompt(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The prompt of a running or waiting request, as text."""
    return await need(context.services.requests, "the engine").prompt(args["request"])


@command("requests.cancel", Argument("request", meaning="the request's id"))
async def requests_cancel(context: CommandContext, args: Mapping[str, Any]) -> object:
    """Cancel a request; what it computed stays cached."""
    return await need(context.services.requests, "the engine").cancel(args["request"])


@command("requests.failures")
async def requests_failures(context: CommandContext, args: Mapping[str, Any]) -> object:
    """The last requests that failed or were refused, newest first."""
    return {"failures": await need(context.services.requests, "the engine").failures()}
