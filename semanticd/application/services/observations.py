"""Observations: facts about requests and models from outside the engine, kept together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from semanticd.application.services.arrivals import Arrivals
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.savings import Savings
from semanticd.application.services.waits import Waits
from semanticd.domain.ids import ModelId


@dataclass(frozen=True, slots=True)
class Observations:
    """Arrivals, waits and outcomes of requests, their savings, and the progress of models."""

    arrivals: Arrivals
    waits: Waits
    outcomes: Outcomes
    savings: Savings
    progress: ModelProgress
    model_warnings: Callable[[], Awaitable[Mapping[ModelId, str]]]
    """Returns what to say of loaded models besides what their loaders do; see `ModelNames.warnings`."""
