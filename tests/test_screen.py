from __future__ import annotations

import io

from rich.table import Table

from vodet.screen import Screen

NAME = "[/red] :car: \x1b[31m\x07\u202e"
SHOWN = r"[/red] :car: \x1b[31m\x07\u202e"


def printed(*values: object, **options: bool) -> str:
    screen = Screen(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    screen.print(*values, **options)
    return screen.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_text_is_data() -> None:
    assert printed(f"file {NAME}\nnext", soft_wrap=True) == f"file {SHOWN}\nnext\n"


def test_text_of_tables_is_data() -> None:
    table = Table(NAME, "b", title=NAME, caption=NAME)
    table.add_row(NAME, "1")
    assert printed(table).count(SHOWN) == 4
    assert "\x1b" not in printed(table)


def test_errors() -> None:
    screen = Screen(file=io.StringIO(), width=20, force_terminal=True)
    screen.error(f"no {NAME}\nat all, although the line is long")
    text = screen.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert text == f"\x1b[1;31mError: \x1b[0mno {SHOWN}\nat all, although the line is long\n"
