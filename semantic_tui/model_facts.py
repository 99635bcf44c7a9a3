"""The facts about models as cells and text, and the effects of a change. Pure."""

from __future__ import annotations

from textual.content import Content

from semantic_tui.plain import shortened, size, time_of_day
from semantic_tui.state import ModelChange, WatchState
from semantic_tui.widgets.figures import share_bar
from semantic_tui.widgets.rows_table import Cell, Column
from semanticd.control.results import ModelRow

MODEL_COLUMNS = (
    Column("model", 26, right=False), Column("state", 13, right=False), Column("weights", 10), Column("on disk", 10),
    Column("context", 9), Column("precision", 9, right=False), Column("about", 0, right=False),
)  # fmt: skip
"""The description gets the width that the other columns leave."""
NARROW_COLUMNS = MODEL_COLUMNS[:4]
"""The columns for terminals of less than 100."""
_STYLES = {"current": "bold $success", "loaded": "$success", "installed": "$primary"}
_STAGE_STYLES = {"ready": "$success", "pulled": "$success", "unloaded": "$muted"}
_ENDED = (*_STAGE_STYLES, "failed")
_TIME_WIDTH = 8
_NAME_WIDTH = 24
_BAR_WIDTH = 20


def model_cells(row: ModelRow, change: ModelChange | None = None) -> tuple[Cell, ...]:
    """Return a model's cells; while it changes, its state is the stage of the change."""
    state = "current" if row.current else "loaded" if row.loaded else ""
    state = state or ("installed" if row.installed else "can be pulled")
    style = _STYLES.get(state, "$muted")
    stage = change.progress.stage if change else ""
    # While the old one drains, the new one is loaded and answers already.
    answers = row.current and stage != "draining"
    if stage and stage not in _ENDED and not answers:
        state, style = stage, "bold $warning"
    return (
        row.id,
        (state, style),
        size(row.weights_bytes) if row.weights_bytes else "-",
        # Of a model that is not here, what is downloaded.
        size(num_bytes) if (num_bytes := row.size_bytes or row.download_bytes) else "-",
        f"{row.context_length:,}" if row.context_length is not None else "-",
        row.precision or "-",
        row.description,
    )


def changes_text(state: WatchState) -> Content:
    """Return a line per change with its time, newest first; a failed one has the reason and the model that serves."""
    lines = []
    for model, change in reversed(state.changes.items()):
        stage, share = change.progress.stage, change.progress.progress
        when = (f"{time_of_day(change.progress.at):<{_TIME_WIDTH}} ", "$muted")
        name = f"{shortened(model, _NAME_WIDTH):<{_NAME_WIDTH}} "
        if stage == "failed":
            serves = change.served or "no model"
            reason = (f"failed: {change.progress.reason or ''}\n", "$error")
            back = f"{'':<{_TIME_WIDTH}} rolled back: {serves} serves"
            lines.append(Content.assemble(when, f"{name.rstrip()} ", reason, back))
        elif stage in _STAGE_STYLES:
            lines.append(Content.assemble(when, name, (stage, _STAGE_STYLES[stage])))
        else:
            bar = share_bar(share, _BAR_WIDTH, "$warning")
            shown = (f"{stage:<12} ", "$warning"), bar, f" {100 * share:3.0f} %"
            lines.append(Content.assemble(when, name, *shown))
    nothing = Content.styled(
        "No model has been loaded, swapped or pulled since the dashboard started.", "$muted"
    )
    return Content("\n").join(lines) if lines else nothing


def _row(state: WatchState, model: str) -> ModelRow:
    return next((row for row in state.models if row.id == model), ModelRow())


def _agents_in_ram(state: WatchState, model: str | None) -> int:
    return sum(1 for row in state.agents if row.model == model and row.state in ("hot", "active"))


def _requests_on(state: WatchState, model: str | None) -> int:
    return sum(1 for row in state.requests if row.model in ("", model))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _memory(state: WatchState, model: str) -> tuple[str, bool | None]:
    """Return a text of the memory needed and free, and whether the model fits (None: not known)."""
    row, free = _row(state, model), state.status.free_memory_bytes
    if row.loaded:
        return f"{model} is already loaded; no more memory is needed.", True
    need = row.memory_needed_bytes or row.size_bytes
    if not need:
        return f"known once the files of {model} are downloaded, which happens first.", None
    text = f"{model} needs about {size(need)}"
    if free is None:
        return f"{text}.", None
    return f"{text}; {size(free)} are free.", need <= free


def swap_text(state: WatchState, model: str) -> str:
    """Return the effects of a swap: memory, drain, agents affected, rollback."""
    old = state.status.model
    if old == model:
        return f"{model} is already the current model; nothing changes."
    memory, fits = _memory(state, model)
    if not _row(state, model).installed:
        memory += "\nFiles: not on this machine; they are downloaded first, while the current model serves."
    running, agents = _requests_on(state, old), _agents_in_ram(state, old)
    if fits is None:
        drain = (
            "alongside the old one if both fit; otherwise new requests wait until the old one is unloaded."
        )
    elif fits:
        drain = "both fit: no request waits."
    else:
        drain = "both do not fit: new requests wait until the old one is unloaded and the new one is loaded."
    return (
        f"{model} becomes the current model in place of {old or 'none'}.\n\n"
        f"Memory: {memory}\n"
        f"Load: {drain}\n"
        f"Drain: {_count(running, 'request')} on {old or 'the old model'} finish first.\n"
        f"Agents: {_count(agents, 'agent')} with blocks in RAM; these move to disk and are warm after swapping back.\n"
        "Rollback: if loading fails, the old model serves again."
    )


def load_text(state: WatchState, model: str) -> str:
    """Return the effects of loading a model alongside the loaded ones."""
    memory, fits = _memory(state, model)
    refused = (
        "\nIt is refused unless an idle model can be unloaded; swap to it instead." if fits is False else ""
    )
    current = state.status.model or "none"
    return f"{model} is loaded alongside the loaded models; {current} stays current.\n\nMemory: {memory}{refused}"


def unload_text(state: WatchState, model: str) -> str:
    """Return the effects of unloading a model."""
    row = _row(state, model)
    if not row.loaded and state.status.model_away is not None:
        return (
            f"{model} is not loaded.\n\nAway: {state.status.model_away}\n"
            f"If {model} is what the machines load as soon as all have joined, that is given up; else nothing changes."
        )
    if not row.loaded:
        return f"{model} is not loaded; nothing changes."
    warning = "\nIt is the current model: requests for the default model fail until another is loaded."
    current = warning if row.current else ""
    return (
        f"{model} is unloaded, which frees about {size(row.weights_bytes)} of memory.\n\n"
        f"Drain: {_count(_requests_on(state, model), 'request')} on it finish first.\n"
        f"Agents: {_count(_agents_in_ram(state, model), 'agent')} with blocks in RAM; these move to disk.{current}"
    )
