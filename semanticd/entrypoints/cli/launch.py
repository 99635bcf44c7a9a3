"""`semanticd launch`: start a program on the running daemon, or show the environment or the settings that do."""

from __future__ import annotations

import ipaddress
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import click

from semanticd.control.results import ConfigResult, ConfigValue, StatusResult, read
from semanticd.domain.errors import NO_MODEL_LOADED, DaemonError, ModelNotFoundError
from semanticd.domain.model_name import did_you_mean
from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Program, Service, Settings
from semanticd.entrypoints.cli.output import narrate, print_script

_HELP_TIMEOUT_S = 10.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice(list(PROGRAMS)))
@click.option("--print", "as_shell", is_flag=True, help="Print shell commands instead of starting it.")
@click.option("--model", "-m", help="Loaded model to use; default: the current one.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]...")
def launch(*, name: str, as_shell: bool, model: str | None, arguments: tuple[str, ...]) -> None:
    """Start Claude Code, Codex or another client of the daemon.

    Arguments after `--` are passed to the program. None of its files are changed: it gets the daemon's address, key and
    model in environment variables and arguments, for this run only. `eval "$(semanticd launch claude --print)"` sets
    them in a shell. For `cline`, `crush`, `zed` and `vscode` the settings are printed instead, because these programs
    read them from their own files only.
    """
    program = PROGRAMS[name]
    service = find_service(model)
    launched = program.launch(service)
    _warn_of_short_context(name, program, service)
    if isinstance(launched, Settings):
        if arguments:
            raise click.UsageError(
                f"{name} is not started from here: its settings are printed, and it takes no arguments"
            )
        narrate(f"semanticd: put this into {launched.place}:")
        print_script(launched.text)
        return
    made = with_what_is_known(launched)
    if as_shell:
        print_script(as_commands(made, arguments) + "\n")
        return
    start(made, arguments, install=program.install)


def find_service(model: str | None) -> Service:
    """Return the running daemon as a program sees it.

    Raises:
        DaemonNotRunningError: There is none.
        DaemonError: It has no model yet, or reports an address that is not this machine's.
        ModelNotFoundError: `model` is not loaded.
    """
    from semanticd.entrypoints.cli.daemon_link import ask, settings_or_defaults

    status = read(StatusResult, ask("status"))
    loaded = {one.id: one for one in status.models}
    chosen = model or status.model
    if not status.models and status.state in ("ready", "no_model"):
        raise DaemonError(status.model_away or NO_MODEL_LOADED)
    if chosen is None:
        raise DaemonError(
            f"the daemon is {status.state} and has no model yet; `semanticd status` shows when it is ready"
        )
    if chosen not in loaded:
        raise ModelNotFoundError(
            f"model {chosen!r} is not loaded{did_you_mean(chosen, loaded)}; loaded: {', '.join(sorted(loaded))}. "
            f"Load it with `semanticd models load {shlex.quote(chosen)}`"
        )
    address = status.address
    if not is_on_this_machine(address):
        # The key and all prompts would go there.
        raise DaemonError(
            f"the daemon reports the address {address}, which is not this machine's; no program is started on it"
        )
    keys = settings_or_defaults().security.api_key
    if not keys and asks_for_key(read(ConfigResult, ask("config.show")).settings):
        raise DaemonError(
            "the daemon requires an API key and this shell has none, so every request would be refused: set "
            "SEMANTIC_API_KEY to one of its keys, or write `api_key` under [security] into config.toml"
        )
    return Service(
        url=reachable(address),
        model=chosen,
        context_tokens=loaded[chosen].context_length,
        api_key=keys[0] if keys else None,
    )


def asks_for_key(settings: Sequence[ConfigValue]) -> bool:
    """Return whether a daemon with these settings (secrets masked) requires a key from clients."""
    return any(one.name == "security.api_key" and one.value for one in settings)


def reachable(address: str) -> str:
    """Return the URL at which a program on this machine finds a daemon that may be bound to all addresses."""
    parts = urlsplit(address)
    host = _ANYWHERE.get(parts.hostname or "")
    if host is None:
        return address.rstrip("/")
    return urlunsplit((parts.scheme, f"{host}:{parts.port}", "", "", ""))


def is_on_this_machine(url: str) -> bool:
    """Return whether a URL's host is `localhost`, a wildcard, or an address of this machine; resolves no other name.

    The daemon reports the address that its listener is bound to, which is always a number.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https"):
            return False
        if host == "localhost" or host in _ANYWHERE:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if address.is_loopback:
        return True
    import psutil

    return any(
        str(address) == one.address.partition("%")[0].lower()
        for interface in psutil.net_if_addrs().values()
        for one in interface
    )


def with_what_is_known(made: Launch) -> Launch:
    """Return the launch with the variables that the user has not set, and the flags that the program knows."""
    environment = {name: value for name, value in made.defaults.items() if name not in os.environ}
    return replace(
        made,
        environment={**made.environment, **environment},
        arguments=(*made.arguments, *_known_flags(made)),
    )


def _known_flags(made: Launch) -> tuple[str, ...]:
    path = shutil.which(made.program)
    if path is None or not made.arguments_if_known:
        return ()
    try:
        asked = subprocess.run(
            [path, "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_HELP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    words = asked.stdout.split()
    return tuple(flag for flag in made.arguments_if_known if flag in words)


def as_commands(made: Launch, arguments: tuple[str, ...]) -> str:
    """Return shell commands that set the environment; the program's own command line comes last, as a comment."""
    lines = [f"unset {' '.join(made.unset)}"] if made.unset else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in made.environment.items()]
    lines.append(f"# {shlex.join([made.program, *made.arguments, *arguments])}")
    return "\n".join(lines)


def start(made: Launch, arguments: tuple[str, ...], *, install: str) -> None:
    """Replace this process by the program.

    Raises:
        DaemonError: The program is not installed.
    """
    path = shutil.which(made.program)
    if path is None:
        raise DaemonError(f"{made.program} is not installed (not found on PATH); install it with: {install}")
    environment = {name: value for name, value in os.environ.items() if name not in made.unset}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(path, [made.program, *made.arguments, *arguments], {**environment, **made.environment})  # noqa: S606 (no shell wanted)


def _warn_of_short_context(name: str, program: Program, service: Service) -> None:
    if service.context_tokens > program.prompt_tokens + service.output_tokens:
        return
    hint = f"; {program.hint}" if program.hint else ""
    narrate(
        f"semanticd: {service.model} has a context of {service.context_tokens} tokens, of which {name} itself takes "
        f"about {program.prompt_tokens}: expect `prompt is too long`{hint}, or serve a model with a longer context"
    )
