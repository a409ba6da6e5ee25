"""Every public name is documented; the front door with its arguments, the shapes of its arrays and their units.

The rule, for functions and classes of `dsjax.__all__`: each argument stands in the docstring (of a class also: behind
its field). Each array among them has a shape in brackets (`f[B, S]`) there or in its name (`logp_BxS`), and floats a
unit. So does an array that is returned.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import dsjax as ds
from dsjax.atlas.rows import compute

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).parents[2] / "docs" / "pages.py")
assert SPEC is not None
assert SPEC.loader is not None
PAGES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PAGES)

FRONT = {n: getattr(ds, n) for n in ds.__all__ if callable(getattr(ds, n))} | {"atlas": compute}
ARRAY = re.compile(r"Array\b|ndarray")
SHAPE = re.compile(r"\b(?:f|f32|i|i32|bool|c)\[[^\]]*\]|_[A-Z]\w*(?:x[A-Z0-9]\w*)*\b")
SCALAR = {"key", "temperature"}  # one key, one number
UNITS = re.compile(
    r"\bnats\b|\blogits?\b|probabilit|P\(|\b[Rr]eturns?\b|\breward|\[0, 1\]|\btokens?\b|\bkey\b|\bparameters?\b|"
    r"\bfeatures?\b|\benerg|\bgradients?\b|\bcost\b|\bloss\b|\btemperature\b"
)


def entries(text: str) -> dict[str, str]:
    """{argument: what `Args:` or `Attributes:` says of it}."""
    parts = re.split(r"^(?:Args|Attributes):\n", text, flags=re.MULTILINE)[1:]
    found: dict[str, str] = {}
    for part in parts:
        body = re.split(r"\n(?=\S)", part)[0]
        for name, what in re.findall(r"^  \**(\w+): ((?:.+\n?(?:    .*\n?)*))", body, re.MULTILINE):
            found[name] = what
    return found


def faults(thing: object) -> list[str]:
    """What the docstring of a function or class does not say."""
    text = PAGES.documented(thing)
    said, out = entries(text), []
    for name, p in inspect.signature(thing).parameters.items():  # type: ignore[arg-type]
        what = said.get(name, "")
        out += [f"{name}: not said"] * (not what)
        if ARRAY.search(str(p.annotation)) and what and name not in SCALAR and "Callable" not in str(p.annotation):
            out += [f"{name}: no shape"] * (not SHAPE.search(f"{name} {what}"))
            if re.search(r"\bf(32)?\[", what):
                out += [f"{name}: no unit"] * (not UNITS.search(what))
    returned = "" if inspect.isclass(thing) else str(inspect.signature(thing).return_annotation)  # type: ignore[arg-type]
    out += ["returned: no shape"] * bool(ARRAY.search(returned) and "->" not in returned and not SHAPE.search(text))
    return out


@pytest.mark.parametrize("name", FRONT)
def test_the_front_door_says_arguments_shapes_and_units(name):
    assert not faults(FRONT[name])


def test_a_missing_argument_shape_or_unit_is_noticed():
    def one(x: ds.Trajectories, y: "jax.Array", z: "jax.Array") -> None:  # type: ignore[name-defined] # noqa: F821, UP037
        """Nothing.

        Args:
          y: numbers.
          z: f[B] numbers.
        """

    assert faults(one) == ["x: not said", "y: no shape", "z: no unit"]


def test_every_objective_says_what_it_computes():
    """Also those that are made by `named`; ruff asks for the docstring of everything that is a `def` or a `class`."""
    for name, function in ds.objectives.OBJECTIVES.items():
        first = PAGES.documented(function).split("\n\n")[0]
        assert len(first) > 40, name
        assert first.endswith("."), name


def test_every_front_door_name_is_in_the_reference():
    page = "\n".join(PAGES.front_door())
    assert not [n for n in ds.__all__ if not re.search(rf":: dsjax\.{n}\b", page)]


def test_docstrings_become_markup_that_says_the_same():
    text = "Of `Sample`s: a_ * |b|, pi_d.\n\n    x = `y` * z\n\nThe end."
    said = "Of ``Sample``\\ s: a\\_ \\* \\|b\\|, pi_d.\n\n::\n\n    x = `y` * z\n\nThe end."
    assert PAGES.escape(text) == said
