"""What a user types is what a command gets."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cli.conftest import Command
from vodet.cli.app import _compose
from vodet.cli.words import TEXTS, for_hydra
from vodet.errors import ConfigError


def values(*words: str) -> dict[str, Any]:
    """The values that Hydra reads, by key."""
    settings = [word for word in for_hydra(words) if not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(settings)
    return {setting.key_or_group: setting.value() for setting in parsed}


NAMES = [
    "видео.mp4",
    "/home/josé/o",
    "a/epoch=3.ckpt",
    "0",
    "2024",
    "1e3",
    "0x10",
    "1_000",
    "true",
    "nan",
    "a, b.mp4",
    "[a.mp4,b.mp4]",
    "{a:1}",
    "clip (1).mp4",
    "don't [x].mp4",
    'say "hi".mp4',
    "#1~2!3;4&5<6>7^8`9.mp4",
    "a\\b.mp4",
    "a\\",
    'a\\"b',
    "C:\\videos\\",
    " two  blanks ",
    "line\nbreak",
    "$5.mp4",
    "100%",
    "frames/*.jpg",
    "s3://bucket/a?b=c&d=e",
    "choice(a,b)",
    "行人",
    "null.mp4",
    "-1",
    "~file",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_taken_as_it_is_typed(name: str) -> None:
    assert values(f"source={name}", f"+a.b.run_dir={name}") == {"source": name, "a.b.run_dir": name}


@pytest.mark.parametrize("name", NAMES)
def test_a_word_is_the_same_when_it_is_passed_on(name: str) -> None:
    words = for_hydra([f"ckpt={name}"])
    assert for_hydra([*words, "hydra.job.name=other"])[:1] == words


@pytest.mark.parametrize("quoted", ["'a, b.mp4'", '"a, b.mp4"'])
def test_quotes_of_hydra_are_no_part_of_a_text(quoted: str) -> None:
    assert values(f"source={quoted}") == {"source": "a, b.mp4"}


def test_null_interpolations_and_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/josé")
    assert values("resume=null", "run_dir=${runs_dir}/é", "ckpt=~/a.ckpt") == {
        "resume": None,
        "run_dir": "${runs_dir}/é",
        "ckpt": "/home/josé/a.ckpt",
    }


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("seed=1", 1),
        ("trainer.max_epochs=null", None),
        ("evaluation.protocols=[coco,vid]", ["coco", "vid"]),
        ("trusted=[пакет,b]", ["пакет", "b"]),
        ("trusted=[a=b, 2]", ["a=b", 2]),
        ("+logger.wandb.project=été #1", "été #1"),
        ("+x={a:1,b:[2]}", {"a": 1, "b": [2]}),
    ],
)
def test_other_values_are_read_by_hydra_where_it_can(word: str, value: Any) -> None:
    assert list(values(word).values()) == [value]


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_options_may_stand_anywhere(flag: str, place: int) -> None:
    words = ["seed=1,2", "name=été,2"]
    words.insert(place, flag)
    found = for_hydra(words)
    assert found == ["seed=1,2", 'name="été","2"', flag]


def test_an_option_keeps_its_value() -> None:
    words = ["seed=1", "--config-dir", "my conf", "-c", "job", "lr=2", "--resolve"]
    assert for_hydra(words) == ["seed=1", "lr=2", *words[1:5], "--resolve"]


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["source="], ["source=", "shell"]),
        (["trainer.max_epochs="], ["trainer.max_epochs="]),
        (["seed", "=", "1"], ["KEY=VALUE", "'seed'"]),
        (["street.mp4"], ["KEY=VALUE", "'street.mp4'"]),
        (["sèed=1"], ["'sèed'"]),
        (["--seed=3"], ["--seed=3", " seed=3"]),
        (["seed=1", "-x"], ["no option -x", "--help"]),
        (["evaluation.protocols=coco,vid"], ["evaluation.protocols=[coco,vid]", "-m"]),
    ],
)
def test_a_word_that_means_nothing(words: list[str], facts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        for_hydra(words)
    for fact in facts:
        assert fact in str(error.value)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model.x=[a,é;[b]]", "'é' needs quotes"),
        ("model.x=[a", "brackets"),
        ("model.x=it's", "quotes"),
    ],
)
def test_the_hint_can_be_pasted_into_a_shell(word: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        for_hydra([word])
    message = str(error.value)
    assert reason in message
    hint = message[message.index("in quotes: ") + len("in quotes: ") : -1]
    (pasted,) = shlex.split(hint)
    assert list(values(pasted).values()) == [word.partition("=")[2]]


def test_every_text_is_a_key_of_a_command() -> None:
    files = Path(__file__).parents[2].joinpath("conf").rglob("*.yaml")
    text = "\n".join(file.read_text() for file in files)
    for name in TEXTS:
        assert f"{name}:" in text, name


def test_what_a_user_has_to_name_is_a_text() -> None:
    required = _compose("predict", []).keys()
    assert {key for key in required if key in TEXTS} == {"ckpt", "source", "output"}


@pytest.mark.parametrize("name", ["2024", "видео #1", "a=b, [c]"])
def test_folders_of_any_name_are_read_and_written(
    name: str, trained: Path, inside: Path, command: Command
) -> None:
    source = inside / name
    if not source.exists():
        shutil.copytree(inside / "data/demo/images/val/val_000", source)
    command("predict", f"ckpt={trained}/best.ckpt", f"source={name}", f"output=found/{name}")
    assert len(list((inside / "found" / name).iterdir())) == 2
