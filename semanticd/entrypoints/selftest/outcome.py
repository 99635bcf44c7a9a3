"""The result of a check: a verdict, a sentence, and figures."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from semanticd.domain.errors import SemanticError
from semanticd.entrypoints.findings import Finding

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and the sentence that says why; sizes of figures end in `_bytes`, times in `_s` or `_ms`."""

    verdict: Verdict
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def ok(message: str, **figures: Any) -> Outcome:
    """Return that all is as it should be."""
    return Outcome("ok", message, figures)


def warn(message: str, **figures: Any) -> Outcome:
    """Return that it works, but not as well as it should."""
    return Outcome("warn", message, figures)


def fail(message: str, **figures: Any) -> Outcome:
    """Return that it does not work."""
    return Outcome("fail", message, figures)


def skipped(why: str) -> Outcome:
    """Return that it was not tried."""
    return Outcome("skipped", why)


_VERDICTS: Mapping[str, Verdict] = {"ok": "ok", "warning": "warn", "error": "fail"}


def of_finding(finding: Finding) -> Outcome:
    """Return what one of the doctor's checks found."""
    verdict = _VERDICTS[finding.state]
    advice = f" -> {finding.advice}" if finding.advice and verdict != "ok" else ""
    return Outcome(verdict, finding.message + advice, finding.facts)


def of_error(error: Exception) -> Outcome:
    """Return that a check could not be completed: for a defect, with the place in the code."""
    if isinstance(error, SemanticError):
        return fail(error.message)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in last]
    return fail(f"{type(error).__name__}: {error}"[:500], where="".join(where))
