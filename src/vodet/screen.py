"""Prints text on the terminal safely, even if it contains names that were read from files."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from vodet.names import visible


class Screen(Console):
    """A console that prints strings literally: square brackets and colons have no special meaning.

    Control codes are shown as text and never sent to the terminal. Text can be styled only with
    arguments such as ``style``, not with markup.

    Args:
        options: Arguments of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a rich ``Text``, literally; rich calls this for every string."""
        return super().render_str(visible(text, keep="\n\t"), **options | {"markup": False})

    def say(self, title: str, message: str) -> None:
        """Print a bold red title, followed by a message."""
        self.print(Text.assemble((title, "bold red"), self.render_str(message)), soft_wrap=True)
