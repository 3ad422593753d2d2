from __future__ import annotations

import io
import re
from pathlib import Path

from rich.table import Table

from vodet import screen
from vodet.screen import Screen

NAME = "[/red] :car: \x1b[31m\x07\u202e"
SHOWN = r"[/red] :car: \x1b[31m\x07\u202e"


def printed(*values: object, **options: bool) -> str:
    shown = Screen(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    shown.print(*values, **options)
    return shown.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_text_is_data() -> None:
    assert printed(f"file {NAME}\nnext", soft_wrap=True) == f"file {SHOWN}\nnext\n"


def test_text_of_tables_is_data() -> None:
    table = Table(NAME, "b", title=NAME, caption=NAME)
    table.add_row(NAME, "1")
    assert printed(table).count(SHOWN) == 4
    assert "\x1b" not in printed(table)


def test_errors() -> None:
    shown = Screen(file=io.StringIO(), width=20, force_terminal=True)
    shown.say("Error: ", f"no {NAME}\nat all, although the line is long")
    text = shown.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert text == f"\x1b[1;31mError: \x1b[0mno {SHOWN}\nat all, although the line is long\n"


def test_every_console_is_a_screen() -> None:
    folder = Path(screen.__file__).parent
    others = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"\bConsole\(|markup import|from_markup", path.read_text("utf-8"))
    }
    assert others == set()
