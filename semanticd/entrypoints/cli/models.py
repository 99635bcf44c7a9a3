"""`semanticd models`: known, installed and loaded models. Without a daemon, those on disk."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from semanticd.adapters.config.kinds import means_path
from semanticd.control.errors import DaemonNotRunningError
from semanticd.control.results import ModelProgress, ModelRow, read, rows_in
from semanticd.entrypoints.cli.daemon_link import LONG_COMMAND_TIMEOUT_S, ask, connect
from semanticd.entrypoints.cli.options import absolute, json_option
from semanticd.entrypoints.cli.output import in_bytes, narrate, print_facts, print_json, print_table
from semanticd.entrypoints.cli.progress import Progress
from semanticd.entrypoints.cli.sizes import Size


@click.group("models")
def commands() -> None:
    """List, download, load and swap models."""


_COLUMNS = ("id", "state", "context_length", "size_bytes", "memory_needed_bytes", "description")


def name_or_path(value: str) -> str:
    """Return a model's name as it is, and a path as it is seen from everywhere."""
    return str(absolute(value)) if means_path(value) else value


as_model = click.argument("model", callback=lambda context, param, value: name_or_path(value))


@commands.command("list")
@json_option
def list_models(*, as_json: bool) -> None:
    """List models: loaded, installed, and available to pull.

    SIZE is a model's size on disk, or its download size if it is not installed.
    """
    rows = _either(lambda: rows_in(ask("models.list"), "models"), lambda offline: offline.list())
    if as_json:
        print_json({"models": rows})
    else:
        typed = [read(ModelRow, row) for row in rows]
        print_table([_listed(row, model) for row, model in zip(rows, typed, strict=True)], _COLUMNS)
        for model in typed:
            if model.warning:
                narrate(f"warning: {model.id}: {model.warning}")


@commands.command()
@as_model
@json_option
def info(*, model: str, as_json: bool) -> None:
    """Show the details of one model."""
    _show(_either(lambda: ask("models.info", model=model), lambda offline: offline.info(model)), as_json)


@commands.command()
@as_model
@json_option
def pull(*, model: str, as_json: bool) -> None:
    """Download a model; an interrupted download is resumed."""
    progress = Progress()
    _show(
        _either(
            lambda: with_progress("models.pull", model, progress),
            lambda offline: offline.pull(model, progress.show),
        ),
        as_json,
    )


@commands.command()
@as_model
@json_option
def rm(*, model: str, as_json: bool) -> None:
    """Delete a model's files in the models folder.

    If the model was converted from a file of yours, that file stays.
    """
    removed = _either(lambda: ask("models.rm", model=model), lambda offline: offline.remove(model))
    _show(removed, as_json)
    if not as_json and removed.get("kept"):
        narrate(f"the file {removed['kept']} is your own and was not deleted")


@commands.command()
@as_model
@json_option
def load(*, model: str, as_json: bool) -> None:
    """Load a model in addition to those already loaded."""
    _show(with_progress("models.load", model, Progress()), as_json)


@commands.command()
@as_model
@json_option
def unload(*, model: str, as_json: bool) -> None:
    """Free a model's memory; its agents' caches stay on disk."""
    _show(with_progress("models.unload", model, Progress()), as_json)


@commands.command()
@as_model
@json_option
def swap(*, model: str, as_json: bool) -> None:
    """Make a model the current one without failing a request."""
    _show(with_progress("models.swap", model, Progress()), as_json)


@commands.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=Size(),
    default=None,
    help="Memory of the machine to plan for, such as 16GB; default: this one's.",
)
@json_option
def fit(*, memory_bytes: int | None, as_json: bool) -> None:
    """Show which models fit on this machine, with how much KV.

    The precision columns show how many tokens of KV cache fit next to the weights.
    """
    # Imported by name, because the module imports MLX to query the device.
    table = importlib.import_module("semanticd.entrypoints.model_fit").fit_table(memory_bytes)
    facts = importlib.import_module("semanticd.application.services.plain").plain(table)
    if as_json:
        print_json(facts)
        return
    budget = facts["budget_bytes"]
    narrate(
        f"{facts['device']}, {in_bytes(facts['memory_bytes'])}: {in_bytes(facts['working_set_bytes'])} for weights and "
        f"KV, of that {in_bytes(facts['reserve_bytes'])} of reserve"
        + (f"; KV budget {in_bytes(budget)}, as set" if budget is not None else "")
    )
    print_table([_fit_row(row) for row in facts["models"]], _FIT_COLUMNS)


_FIT_COLUMNS = ("id", "state", "weights_bytes", "kv_bytes", "exact", "q8", "q6", "q4")


def _fit_row(row: Mapping[str, Any]) -> dict[str, Any]:
    state = "default" if row["default"] else "fits"
    tokens = dict(row["tokens"])
    if not row["fits"]:
        state, tokens = "too large", dict.fromkeys(tokens)
    return {**row, **tokens, "state": state}


def _listed(row: Mapping[str, Any], typed: ModelRow) -> dict[str, Any]:
    return {**row, "state": _state(typed), "size_bytes": typed.size_bytes or typed.download_bytes}


def _state(row: ModelRow) -> str:
    if row.loaded:
        return "current" if row.current else "loaded"
    return "installed" if row.installed else "-"


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _either(online: Callable[[], Any], offline: Callable[[Any], object]) -> Any:
    """Ask the daemon, else look at the disk ourselves; that part is heavy and is loaded by name."""
    try:
        return online()
    except DaemonNotRunningError:
        found = offline(importlib.import_module("semanticd.entrypoints.offline_models").open_models())
        return importlib.import_module("semanticd.application.services.plain").plain(found)


def _show_progress(progress: Progress, change: ModelProgress) -> None:
    progress.show(change.stage, change.progress, change.total_bytes)


def with_progress(cmd: str, model: str, progress: Progress) -> dict[str, Any]:
    """Run a command on a model while showing the daemon's progress."""
    with connect() as client:
        client.call("subscribe", topics=["models"])
        try:
            return client.call(
                cmd,
                model=model,
                reply_within_s=LONG_COMMAND_TIMEOUT_S,
                on_event=lambda event: _show_progress(progress, read(ModelProgress, event.data)),
            )
        finally:
            progress.end()
