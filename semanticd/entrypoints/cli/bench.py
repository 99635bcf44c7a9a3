"""`semanticd bench`: measures any OpenAI-compatible server, and compares results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semanticd.bench.scenarios import SCENARIOS
from semanticd.entrypoints.cli.options import FiniteRange
from semanticd.entrypoints.cli.output import narrate, print_json, print_text

if TYPE_CHECKING:
    from semanticd.bench.result import BenchResult

_SCENARIO_HELP = "\b\nScenarios:\n" + "\n".join(f"  {name:18} {what}" for name, what in SCENARIOS.items())


def _numbers(context: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Read whole numbers from 1 that are separated by commas."""
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(
            f"{value!r} is not a list of whole numbers from 1 such as 256,900,2048", context, param
        )
    return numbers


_as_file = click.Path(path_type=Path, dir_okay=False)
_from_one = click.IntRange(min=1)
_model = click.option("--model", "-m", help="Model to request; default: the first one that the server lists.")
_api_key = click.option("--api-key", envvar=["OPENAI_API_KEY"], help="Key to send (or OPENAI_API_KEY).")
_timeout = click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds without data after which a request counts as failed.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")


@click.group(
    "bench",
    invoke_without_command=True,
    help=f"""Measure several agents against an OpenAI-compatible server.

The server must be running; token counts come from the `usage` of its answers. Prompts are random words from a seed.
Progress goes to stderr, the report (Markdown, or JSON with --json) to stdout.

\b
Examples:
  semanticd bench --lengths 256,900 --streams 1,4
  semanticd bench --base-url http://127.0.0.1:8080 --name mlx_lm --output mlx_lm.json
  semanticd bench compare ours.json mlx_lm.json

{_SCENARIO_HELP}
""",
)
@click.option(
    "--base-url", default="http://127.0.0.1:8000", show_default=True, help="The server, with or without /v1."
)
@_model
@_api_key
@click.option("--name", help="Name of the server in reports; default: its address.")
@click.option(
    "--scenario",
    "-s",
    "scenarios",
    multiple=True,
    type=click.Choice(list(SCENARIOS)),
    help="Scenario to run (repeatable); default: all.",
)
@click.option(
    "--lengths",
    metavar="N,N,…",
    callback=_numbers,
    default="256,900,2048,4096",
    show_default=True,
    help="Prompt lengths in tokens.",
)
@click.option(
    "--streams",
    metavar="N,N,…",
    callback=_numbers,
    default="1,4,8",
    show_default=True,
    help="Numbers of concurrent answers.",
)
@click.option(
    "--agents", "num_agents", type=_from_one, default=6, show_default=True, help="Agents that take turns."
)
@click.option(
    "--turns", "num_turns", type=_from_one, default=3, show_default=True, help="Turns of each agent."
)
@click.option(
    "--prefill-tokens", type=_from_one, default=1500, show_default=True, help="Long prompt of `interference`."
)
@click.option(
    "--dropped-tokens", type=_from_one, default=4000, show_default=True, help="Long prompt of `cancel`."
)
@click.option(
    "--decode-tokens",
    type=_from_one,
    default=48,
    show_default=True,
    help="Answer length of `concurrent_decode`.",
)
@click.option(
    "--repeats",
    type=_from_one,
    default=3,
    show_default=True,
    help="Samples per figure; slow measurements use fewer.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Seed of the random text; change it to measure a server again, which has cached the earlier text.",
)
@click.option(
    "--stop-token-id",
    "stop_token_ids",
    type=int,
    multiple=True,
    help="Id of an end token to suppress, so that answers reach their full length (repeatable).",
)
@click.option(
    "--restart-command", help="Shell line that restarts the server in the background, for `restart_ttft`."
)
@click.option("--swap-command", help="Shell line that makes another model the current one, for `swap`.")
@_timeout
@click.option("--output", "-o", type=_as_file, help="Write the result to this JSON file after each scenario.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also draw charts into this folder (needs the extra `bench`).",
)
@click.option("--png", is_flag=True, help="Draw PNG instead of SVG.")
@_as_json
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> None:
    """Measure, unless a command was given."""
    if context.invoked_subcommand is None:
        _measure(**options)


@bench.command()
@click.argument("results", nargs=-1, type=_as_file, metavar="RESULT RESULT [RESULT]…")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also draw charts into this folder (needs the extra `bench`).",
)
@click.option("--png", is_flag=True, help="Draw PNG instead of SVG.")
def compare(*, results: tuple[Path, ...], plots: Path | None, png: bool) -> None:
    """Compare two or more results.

    A ratio is the first result's value divided by the other's.
    """
    from semanticd.bench.comparison import compare as table_of
    from semanticd.bench.errors import BenchError
    from semanticd.bench.result import load_result

    try:
        loaded = [load_result(path) for path in results]
        print_text(table_of(loaded).rstrip("\n"))
        _draw(loaded, plots, png=png)
    except BenchError as error:
        raise click.ClickException(str(error)) from error


_REPLAY_HELP = """Send recorded requests to a server, and report cache hits.

A trace is a file that the daemon recorded (SEMANTIC_TRACE_DIR), plain or compressed with gzip or xz. Progress goes to
stderr, the report to stdout. Reusable tokens are the longest prefix of a prompt that the server has answered before in
this replay.

\b
Examples:
  semanticd bench replay day.trace.jsonl
  semanticd bench replay a.trace.jsonl b.trace.jsonl --restart-at 20 --restart-command "semanticd restart"
  semanticd bench replay a.trace.jsonl --url http://127.0.0.1:8080 --as-chat --tokenizer model --json
"""


@bench.command(help=_REPLAY_HELP)
@click.argument("traces", nargs=-1, required=True, type=_as_file, metavar="TRACE…")
@click.option(
    "--url",
    "base_url",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The server, with or without /v1.",
)
@_model
@_api_key
@click.option("--name", help="Name of the server in the report; default: its address.")
@click.option(
    "--agents",
    "num_agents",
    type=_from_one,
    help="Agents that take turns, each with a trace; default: one per trace.",
)
@click.option(
    "--restart-at",
    type=_from_one,
    multiple=True,
    metavar="K",
    help="Restart the server before request K, counted over all traces.",
)
@click.option("--restart-command", help="Shell line that restarts the server in the background.")
@click.option(
    "--evict-at",
    type=_from_one,
    multiple=True,
    metavar="K",
    help="Move the agents of the replay to disk before request K (semanticd only).",
)
@click.option(
    "--requests", "num_requests", type=_from_one, metavar="N", help="Play the first N requests of each trace."
)
@click.option(
    "--one-in",
    type=_from_one,
    default=1,
    show_default=True,
    metavar="N",
    help="For models with a short context: keep one word in N of each text, and two tools.",
)
@click.option(
    "--concurrent", is_flag=True, help="Let the agents send requests at the same time instead of in turn."
)
@click.option(
    "--speed",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="With --concurrent: keep the recorded pauses, divided by this; 0: no pauses.",
)
@click.option("--max-tokens", type=_from_one, default=16, show_default=True, help="Tokens per answer.")
@click.option(
    "--as-chat",
    is_flag=True,
    help="Send every request as Chat Completions, for servers with no other API.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the model's tokenizer, for servers that do not report token ids.",
)
@_timeout
@_as_json
def replay(*, traces: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Play traces, and print the report."""
    import asyncio

    from semanticd.bench.errors import BenchError

    if bool(options["restart_at"]) != bool(options["restart_command"]):
        raise click.UsageError("--restart-at and --restart-command go together")
    try:
        result = asyncio.run(_replay(traces, **options))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    from semanticd.bench.replay_report import markdown

    if as_json:
        print_json(result)
    else:
        print_text(markdown(result).rstrip("\n"))
    if not result["total"]["prompt_tokens"]:
        raise click.ClickException("no request was answered; the reasons are above")


async def _replay(
    paths: tuple[Path, ...],
    *,
    base_url: str,
    model: str | None,
    api_key: str | None,
    name: str | None,
    num_agents: int | None,
    restart_at: tuple[int, ...],
    restart_command: str | None,
    evict_at: tuple[int, ...],
    num_requests: int | None,
    one_in: int,
    tokenizer: Path | None,
    timeout_s: float,
    **settings: Any,
) -> dict[str, Any]:
    try:
        from semanticd.bench.client import ChatClient, open_http
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"replaying needs {error.name}, which is not installed; install it with `pip install 'semanticd[bench]'`"
        ) from error
    import secrets

    from semanticd.bench.command import shell_command
    from semanticd.bench.prompt_tokens import token_source
    from semanticd.bench.replay import Replay, ReplaySettings
    from semanticd.bench.replay_report import result_of
    from semanticd.bench.runner import first_model
    from semanticd.bench.shortened import shortened
    from semanticd.bench.trace_file import load_trace

    loaded = [shortened(load_trace(path), one_in=one_in, num_requests=num_requests) for path in paths]
    async with ChatClient(base_url, model=model or "", api_key=api_key, timeout_s=timeout_s) as client:
        base_url = client.base_url
        asked = model or await first_model(client)
    async with open_http(api_key=api_key, timeout_s=timeout_s) as http:
        run = Replay(
            http,
            base_url,
            loaded,
            ReplaySettings(
                model=asked,
                num_agents=num_agents or len(loaded),
                restart_at=frozenset(restart_at),
                evict_at=frozenset(evict_at),
                seed=secrets.token_hex(3),
                **settings,
            ),
            await token_source(http, base_url, folder=tokenizer, model=asked, tell=narrate),
            narrate,
            shell_command(restart_command, what="restart") if restart_command else None,
        )
        await run.run()
    return result_of(run, target=name or base_url)


def _measure(
    *,
    scenarios: tuple[str, ...],
    output: Path | None,
    plots: Path | None,
    png: bool,
    as_json: bool,
    **options: Any,
) -> None:
    import asyncio

    from semanticd.bench.errors import BenchError
    from semanticd.bench.report import markdown

    try:
        # Fails before an hour of measuring, not after it.
        if plots is not None:
            from semanticd.bench.plots import require_matplotlib

            require_matplotlib()
        result = asyncio.run(_run(scenarios or tuple(SCENARIOS), output, **options))
        if as_json:
            print_json(asdict(result))
        else:
            print_text(markdown(result).rstrip("\n"))
        _draw([result], plots, png=png)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if not result.figures:
        raise click.ClickException("no scenario could be measured; the reasons are above")


async def _run(
    scenarios: tuple[str, ...],
    output: Path | None,
    *,
    base_url: str,
    model: str | None,
    api_key: str | None,
    name: str | None,
    stop_token_ids: tuple[int, ...],
    restart_command: str | None,
    swap_command: str | None,
    timeout_s: float,
    **settings: Any,
) -> BenchResult:
    try:
        from semanticd.bench.client import ChatClient
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"measuring needs {error.name}, which is not installed; install it with `pip install 'semanticd[bench]'`"
        ) from error
    from semanticd.bench.command import shell_command
    from semanticd.bench.runner import first_model, new_result, run_scenarios
    from semanticd.bench.session import BenchSession, BenchSettings
    from semanticd.bench.text import TextSource

    def keep(result: BenchResult) -> None:
        if output is not None:
            result.save(output)

    client = ChatClient(
        base_url, model=model or "", api_key=api_key, stop_token_ids=stop_token_ids, timeout_s=timeout_s
    )
    async with client:
        client.model = model or await first_model(client)
        session = BenchSession(
            client=client,
            settings=BenchSettings(**settings),
            text=TextSource(settings["seed"]),
            tell=narrate,
            restart=shell_command(restart_command, what="restart") if restart_command else None,
            swap=shell_command(swap_command, what="swap") if swap_command else None,
        )
        result = new_result(name or base_url, session)
        try:
            await run_scenarios(session, scenarios, result, keep=keep)
        finally:
            # The measured agents must not keep places in the cache.
            await client.forget_agents()
    return result


def _draw(results: list[BenchResult], folder: Path | None, *, png: bool) -> None:
    if folder is not None:
        from semanticd.bench.plots import plot

        for path in plot(results, folder, kind="png" if png else "svg"):
            narrate(f"drew {path}")
