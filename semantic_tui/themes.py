"""The two looks, dark and light. Screens name colours by meaning ($success, $warning, ...), never by value."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="semantic-dark", dark=True, primary="#6cb6ff", secondary="#c297ff", accent="#f0a15a",
    foreground="#d5dbe3", background="#0e1217", surface="#141a21", panel="#1b2430", success="#6bc46d",
    warning="#e3c341", error="#f47067", variables={"muted": "#8d99a8", "faint": "#3d4754"},
)  # fmt: skip
LIGHT = Theme(
    name="semantic-light", dark=False, primary="#0969da", secondary="#8250df", accent="#bc4c00",
    foreground="#1f2328", background="#ffffff", surface="#f6f8fa", panel="#e6ebf1", success="#1a7f37",
    warning="#9a6700", error="#cf222e", variables={"muted": "#59636e", "faint": "#c4ccd4"},
)  # fmt: skip
