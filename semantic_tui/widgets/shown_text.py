"""ShownText: a text that is only drawn when it differs, and only laid out again when its number of lines does.

Laying out a screen costs many times what drawing a line does; an idle daemon's states must cost next to nothing.
"""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class ShownText(Static):
    """A static text that may be shown as often as wanted."""

    _shown: Content | None = None

    def show_text(self, text: Content | str) -> None:
        """Show this text, if it is another one."""
        content = Content(text) if isinstance(text, str) else text
        before, self._shown = self._shown, content
        if before is None or not before.is_same(content):
            layout = before is None or _lines(before) != _lines(content)
            if layout:
                # Textual counts no second wish while one waits, as that of a change of theme while another screen
                # is seen, and then it takes the box of the text before.
                self._layout_updates += 1
            self.update(content, layout=layout)


def _lines(content: Content) -> tuple[int, ...]:
    """Return the length of each line: where these are equal, so is the place that is taken."""
    return tuple(len(line) for line in content.plain.split("\n"))
