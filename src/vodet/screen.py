"""Prints text that may contain names from outside on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from vodet.names import visible


class Screen(Console):
    """A console that prints strings literally: square brackets and colons have no special meaning.

    Control codes are shown as text and never sent to the terminal. Styles are given as arguments.

    Args:
        options: Further arguments of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text; rich also calls this for the cells of tables."""
        return super().render_str(visible(text, keep="\n\t"), **options | {"markup": False})

    def say(self, title: str, message: str) -> None:
        """Print a message with a title in red."""
        self.print(Text.assemble((title, "bold red"), self.render_str(message)), soft_wrap=True)
