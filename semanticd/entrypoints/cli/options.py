"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

LONGEST_S = 10 * 365 * 86400.0
"""Maximum of a duration in seconds; infinite values and NaN are refused."""


class FiniteRange(click.FloatRange):
    """A number up to ten years of seconds: `click.FloatRange` takes NaN for a number within any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with click's message for others."""
        number = super().convert(value, param, ctx)
        return (
            number
            if number <= LONGEST_S
            else self.fail(f"{value} is not a number up to {LONGEST_S:.0f}.", param, ctx)
        )


ANY_FLAG = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Every setting is a flag, `--section-name VALUE`; they are read from what the parser leaves over."""


def absolute(path: str | Path) -> Path:
    """Return a path as it is seen from everywhere: the daemon has another working folder than this shell.

    Raises:
        click.BadParameter: It begins with `~` and the name of no user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise click.BadParameter(f"{str(path)!r} begins with the name of an unknown user") from None


def setting_options(function: _F) -> _F:
    """Take any setting as a flag, the commonest under a short name; `read_flags` gathers them."""
    for option in (
        click.option("--log-level", help="Minimum log level."),
        click.option("--port", "-p", type=int, help="Port to listen on; 0: any free one."),
        click.option("--host", help="Address to listen on."),
        click.option("--model", "-m", help="Model to serve: alias, hf:org/name, folder or file."),
        click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[--section-name VALUE]..."),
    ):
        function = option(function)
    return function


def read_flags(
    *, more: tuple[str, ...], model: str | None, host: str | None, port: int | None, log_level: str | None
) -> dict[str, Any]:
    """Return all flags that were given, by dotted name.

    Raises:
        ConfigurationError: A flag is unknown.
    """
    from semanticd.adapters.config.sources import parse_flags
    from semanticd.domain.errors import ConfigurationError

    try:
        flags: dict[str, Any] = dict(parse_flags(more, others=_own_flags()))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    short = {"mlx.model_id": model, "server.host": host, "server.port": port, "server.log_level": log_level}
    flags.update({name: value for name, value in short.items() if value is not None})
    return flags


def _own_flags() -> list[str]:
    """Return the options of the command that runs, as they are typed."""
    context = click.get_current_context(silent=True)
    options = context.command.params if context is not None else []
    return [name for option in options for name in option.opts if name.startswith("--")]


def as_arguments(flags: dict[str, Any]) -> list[str]:
    """Return flags as `serve` reads them, for the command line of a process to start."""
    return [f"--{name.replace('.', '-').replace('_', '-')}={value}" for name, value in flags.items()]
