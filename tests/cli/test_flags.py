"""From arguments to settings: repeated flags, `--set`, the flags of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from dsjax.cli.atlas import atlas
from dsjax.cli.check import check
from dsjax.cli.flags import deferred, fields_of, gathered, options
from dsjax.cli.main import main
from dsjax.cli.train import train
from dsjax.config import from_dict, from_text
from dsjax.errors import InputError
from tests.cli.plain import assert_plain


@pytest.mark.parametrize(
    ("command", "given", "gets"),
    [
        (check, "--theorem T1 T2 --quick --theorem T3", "--quick --theorem T1 T2 T3"),
        (check, "--theorem=T1 --seed -1", "--seed -1 --theorem T1"),
        (train, "f --set seed=1 keep=2 --run d --set cost=-3", "f --run d --seed=1 --keep=2 --cost=-3"),
        (train, "--set init_from=a=b f --run d", "f --run d --init_from=a=b"),
        (train, "f --set operation=addition", "f --task=addition"),
        (train, "--override keep=4 f --run d --override devices=2", "f --run d --override keep=4 devices=2"),
        (atlas, "--set clip=1 --length 3 --option beta=2 x=3", "--length 3 --option clip=1 beta=2 x=3"),
        (atlas, "--length 3 -- --set a=1", "--length 3 -- --set a=1"),
    ],
)
def test_repeated_flags_add_up(command, given, gets):
    assert gathered(given.split(), command) == gets.split()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the tests.

    Attributes:
      number: a whole one.
      rate: of something.
      word: any; `null` is one.
      limit: a number or none.
      path: a word or none.
      on: or off.
      kind: one of two.
      sizes: some.
    """

    number: int = 1
    rate: float = 0.5
    word: str = "a"
    limit: float | None = None
    path: str | None = "here"
    on: bool = False
    kind: Literal["x", "y"] = "x"
    sizes: tuple[int, ...] = (1, 2)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("", {}),
        ("--number 3 --rate 1e-3", {"number": 3, "rate": 1e-3}),
        ("--word 3 --path null --kind y", {"word": "3", "path": None, "kind": "y"}),
        ("--word null --limit 2 --on true", {"word": "null", "limit": 2.0, "on": True}),
        ("--set limit=null sizes=[3] --number=-4", {"limit": None, "sizes": (3,), "number": -4}),
        ("--sizes 3,4", "sizes"),
        ("--sizes 3", "sizes"),
        ("--number 1e3", "number"),
        ("--rate nan", "rate"),
        ("--on 1", "on"),
        ("--limit none", "limit"),
    ],
)
def test_a_configuration_is_its_flags(flags, fields, monkeypatch):
    """With the types of the fields; what does not fit is refused by the one validator, which names the field."""
    got: Any = None

    def command(*, settings: fields_of("tests.cli.test_flags:Settings") = None) -> int:  # pyright: ignore[reportInvalidTypeForm]
        """For the test."""
        from dsjax.cli.flags import chosen

        nonlocal got
        got = from_dict(Settings, chosen(settings, Settings))
        return 0

    command.__annotations__["settings"] = fields_of("tests.cli.test_flags:Settings")
    monkeypatch.setattr("dsjax.cli.main.COMMANDS", {"it": command, "other": check})
    if isinstance(fields, str):
        with pytest.raises(InputError) as refused:
            raise_from(["it", *flags.split()])
        assert refused.value.field == fields
    else:
        assert main(["it", *flags.split()]) == 0
        assert got == dataclasses.replace(Settings(), **fields)


def raise_from(arguments):
    from dsjax.cli.main import _parsed

    _parsed(arguments)()


def test_help_of_a_configuration(capsys, monkeypatch):
    def command(*, settings: Any = None) -> int:
        """For the test."""
        return 0

    command.__annotations__["settings"] = fields_of("tests.cli.test_flags:Settings")
    monkeypatch.setattr("dsjax.cli.main.COMMANDS", {"it": command, "other": check})
    with pytest.raises(SystemExit):
        main(["it", "--help"])
    text = capsys.readouterr().out
    assert_plain(text)
    for words in (
        "--number INT",
        "a whole one. (default: 1)",
        "--limit FLOAT|null",
        "--kind {x,y}",
        "--on {true,false}",
    ):
        assert words in text


def test_texts_of_fields():
    assert from_text(Settings, {"sizes": "3,4", "number": "7"}) == {"sizes": ["3", "4"], "number": 7}
    with pytest.raises(InputError, match="configuration field: received 'bogus'; allowed: number, rate"):
        from_text(Settings, {"bogus": "1"})


def own(logp, traj, scale: float = 1.0, words: Nowhere = None):  # noqa: F821  # pyright: ignore
    return logp, traj


@pytest.mark.parametrize(
    ("objective", "items", "found"),
    [
        ("grpo", ["clip=0.1", "clip_high=null", "token_kl=1", "aggregation=token_mean"], None),
        ("sft", ["decision_weight=2"], {"decision_weight": 2}),
        (f"{__name__}:own", ["scale=2", "words=any"], {"scale": 2, "words": "any"}),
        (None, [], {}),
    ],
)
def test_options_of_an_objective(objective, items, found):
    expected = {"clip": 0.1, "clip_high": None, "token_kl": 1, "aggregation": "token_mean"} if found is None else found
    assert options(objective, items) == expected


def test_a_deferred_command_keeps_its_signature():
    call = deferred(fake)(3, json="x")
    assert call() == 3


def fake(number: int, *, json: str) -> int:
    return number if json == "x" else 0
