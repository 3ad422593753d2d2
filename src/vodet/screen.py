"""The terminal, for text that may hold names from outside."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from vodet.names import visible


class Screen(Console):
    """A console that takes every string as it is: square brackets and colons have no meaning.

    Control codes are shown, never sent to the terminal. Styles are given by arguments.

    Args:
        options: Further options of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string, also that of a table's cell, into text."""
        return super().render_str(visible(text, keep="\n\t"), **options | {"markup": False})

    def say(self, title: str, message: str) -> None:
        """Print a message with a title in red."""
        self.print(Text.assemble((title, "bold red"), self.render_str(message)), soft_wrap=True)
