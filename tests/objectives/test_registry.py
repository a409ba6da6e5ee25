"""Names, options, and errors that say what is wrong."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.objectives import (
    OBJECTIVES,
    dapo,
    grpo,
    named,
    register,
    registry,
    reinforce,
    resolve,
    surrogate,
)
from dsjax.objectives.registry import defaults
from dsjax.objectives.surrogate import Named
from dsjax.own import import_function
from tests.objectives.reference import batch

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
not_callable = 3


def scaled(logp_BxS, traj, *, scale: float = 1.0):
    return scale * logp_BxS.sum(), traj.weight.sum()


def takes_anything(logp_BxS, traj, **options):
    return options["whatever"]


def test_a_users_function_and_its_options(x64):
    logp, traj = batch()
    half, whole = (resolve(f"{__name__}:scaled", {"scale": x})(logp, traj)[0] for x in (0.5, 1.0))
    assert float(whole) == 2 * float(half) < 0
    assert resolve(f"{__name__}:takes_anything", {"whatever": 1})(logp, traj) == 1


def options_of(function) -> dict:
    found = defaults(function)
    assert found is not None
    return found


def test_options_are_the_parameters_of_the_surrogate():
    """Of every named objective too, with its own defaults; `baseline` is what REINFORCE calls the advantage."""
    for name, function in OBJECTIVES.items():
        if isinstance(function, Named):
            assert list(options_of(function)) == list(options_of(surrogate)), name
    assert list(options_of(reinforce)) == ["baseline", *list(options_of(surrogate))[1:]]
    assert (options_of(dapo)["clip_high"], options_of(grpo)["clip_high"]) == (0.28, None)
    for name in ("grpo", "sft", f"{__name__}:scaled"):
        with pytest.raises(InputError) as error:
            resolve(name, {"clipp": 0.1})
        assert error.value.field == f"option of objective {name}"
        assert ("clip_high" in str(error.value)) is (name == "grpo")
    resolve("reinforce", {"baseline": "none", "aggregation": "token_mean"})
    with pytest.raises(TypeError, match="clipp"):
        named("typo", "", clipp=0.1)
    assert "typo" not in OBJECTIVES


def test_one_decorator_makes_an_objective_and_its_row(x64, monkeypatch):
    """Known by name, with its options checked, in the atlas; a taken name or a wrong option registers nothing."""
    for table in ("OBJECTIVES", "ROWS"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    register("scaled", {"scaled, 2": {"scale": 2.0}}, demonstrations=True)(scaled)
    assert registry.ROWS["scaled, 2"] == registry.Entry("scaled", {"scale": 2.0}, True)
    logp, traj = batch()
    assert float(resolve("scaled", scale=2.0)(logp, traj)[0]) == float(2 * logp.sum())
    assert resolve(scaled, {"scale": 3.0})(logp, traj)[0] == 3 * logp.sum()
    for name, rows in (
        ("scaled", {}),
        ("a:b", {}),
        ("other", {"scaled, 2": {}}),
        ("other", {"row": {}, "bad": {"skale": 1.0}}),
    ):
        with pytest.raises(InputError):
            register(name, rows)(scaled)
    assert "other" not in registry.OBJECTIVES
    assert "row" not in registry.ROWS


def test_every_objective_has_words():
    for name, function in OBJECTIVES.items():
        doc = inspect.getdoc(function) or ""
        assert "c = " in doc or name == "surrogate", name
        assert function.__name__ == name
        if name != "surrogate":
            assert f"| `{name}` |" in PAGE, name
    for option in options_of(surrogate):
        assert f"`{option}`" in PAGE, option


@pytest.mark.parametrize(
    "unknown",
    [
        "no_such_objective",
        "",
        "no_such_module_anywhere:f",
        f"{__name__}:no_such_function",
        f"{__name__}:not_callable",
        f"{__name__}:",
        ":f",
        ".relative:f",
    ],
)
def test_unknown_names(unknown):
    with pytest.raises(InputError) as error:
        resolve(unknown)
    assert error.value.field == "objective"
    assert repr(unknown) in str(error.value)
    if unknown == "no_such_objective":
        for known in (*OBJECTIVES, "module:function"):
            assert known in str(error.value)


def test_import_function_names_the_field_it_was_asked_for(monkeypatch):
    module = types.ModuleType("a_users_module")
    module.__dict__["f"] = len
    monkeypatch.setitem(sys.modules, "a_users_module", module)
    assert import_function("verifier", "a_users_module:f") is len
    with pytest.raises(InputError, match=r"^verifier: "):
        import_function("verifier", "a_users_module:g")


@pytest.mark.parametrize(
    ("field", "objective", "options"),
    [
        ("advantage", "reinforce", {"baseline": "mean"}),
        ("advantage", "surrogate", {"advantage": np.ones(8), "whiten": True}),
        ("option of objective reinforce", "reinforce", {"advantage": "none"}),
        ("option of advantage leave_one_out", "rloo", {"group_size": 4}),
        ("option of advantage group_normalised", "grpo", {"gae_lambda": 0.5}),
        ("ratio", "grpo", {"ratio": "word"}),
        ("ratio", "grpo", {"ratio": "none"}),
        ("clip_rule", "grpo", {"clip_rule": "hard"}),
        ("clip", "grpo", {"clip": 0.0}),
        ("clip", "grpo", {"clip": 1.0}),
        ("clip", "cispo", {"clip": 1.1}),
        ("clip_high", "dapo", {"clip_high": 0.0}),
        ("max_tokens", "dapo", {"max_tokens": 9}),
        ("discount", "ppo", {"discount": 1.1}),
        ("gae_lambda", "ppo", {"gae_lambda": -0.1}),
        ("decision_weight", "sft", {"decision_weight": -1.0}),
        ("aggregation", "sft", {"aggregation": "sequence_mean"}),
        ("beta", "dpo", {"beta": 0.0}),
        ("beta", "ipo", {"beta": -1.0}),
        ("estimator", "own_token_kl", {"estimator": "k4"}),
        ("estimator", "reinforce", {"token_kl": 0.1, "kl_estimator": "k4"}),
        ("aggregation", "own_token_kl", {"aggregation": "mean"}),
    ],
)
def test_bad_options_name_the_field(x64, field, objective, options):
    logp, traj = batch()
    with pytest.raises(InputError) as error:
        resolve(objective, options)(logp, traj)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("field", "objective", "options"),
    [
        ("old_logp", "grpo", {}),
        ("old_logp", "reinforce", {"reward_kl": 0.1}),
        ("old_logp", "own_token_kl", {"estimator": "k3_ratio"}),
        ("ref_logp", "reinforce", {"token_kl": 0.1}),
        ("ref_logp", "own_token_kl", {}),
        ("ref_logp", "dpo", {}),
        ("old_logp", "trajectory_kl", {}),
        ("values", "ppo", {}),
    ],
)
def test_missing_fields_are_named(x64, field, objective, options):
    logp, traj = batch()
    with pytest.raises(InputError) as error:
        resolve(objective, options)(logp, traj.replace(**{field: None}))
    assert error.value.field == field
