"""Numbers that are none, or that ask for more than there is: refused at once, from the command line and from Python."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest

import proofs_check
from dsjax.cli.flags import pairs
from dsjax.config import from_dict
from dsjax.errors import InputError
from dsjax.io import require_memory, size_of
from dsjax.objectives import resolve
from dsjax.objectives.options import LIMITS
from dsjax.objectives.registry import OBJECTIVES, defaults
from dsjax.policies.rollout import require_temperature
from dsjax.process import DecisionSamplingProcess
from dsjax.rollouts import attribute_rollouts
from dsjax.statistics import Bootstrap
from dsjax.study.engine import run_on_dask
from dsjax.study.jobs import Job
from dsjax.study.settings import Settings
from dsjax.tasks import TASKS
from dsjax.training.bench import BenchConfig
from dsjax.training.config import TrainConfig
from tests.cli.test_bad_input import refused
from tests.cli.test_flags import raise_from

NO_INTEGER = ["3", 2.5, 3.0, None, True, -1, [1], {}, float("nan"), float("inf")]
NO_NUMBER = ["0.5", None, True, [0.5], float("nan"), float("inf"), -float("inf"), 10**400]
NO_SEED = [*NO_INTEGER, 2**32, 2**70]
HUGE = [10**9, 10**12, 10**15, 10**30]


def rejected(call: Any, field: str) -> str:
    with pytest.raises(InputError) as found:
        call()
    said = str(found.value)
    assert field in found.value.field, said
    assert "\n" not in said
    return said


INTEGERS = {
    "digits": lambda x: TASKS["addition"](digits=x),
    "digits of multiplication": lambda x: TASKS["multiplication"](digits=x),
    "digits of prefix_sums": lambda x: TASKS["prefix_sums"](digits=x),
    "width": lambda x: TASKS["addition"](digits=2, width=x),
    "modulus": lambda x: TASKS["prefix_sums"](modulus=x),
    "numbers": lambda x: TASKS["countdown"](numbers=x),
    "problems": lambda x: TASKS["addition"](digits=2).training_problems(jax.random.key(0), x),
    "evaluation problems": lambda x: TASKS["addition"](digits=2).evaluation_problems("in", x),
    "resamples": lambda x: Bootstrap(3, x),
    "resamples of attribute": lambda x: attribute_rollouts("sft", resamples=x),
    "instances": lambda x: proofs_check.check("T1", instances=x),
    **{n: lambda x, n=n: TrainConfig(**{n: x}) for n in ("layers", "prompts", "group", "rounds", "updates", "keep")},
    **{n: lambda x, n=n: BenchConfig(**{n: x}) for n in ("batch", "length", "repeats", "steps")},
    **{
        n: lambda x, n=n: Settings(("rloo",), sweep=None, **{n: x})
        for n in ("seeds", "attempts", "evaluation_problems")
    },
}
NOT_HASHABLE = ("problems",)  # JAX refuses those itself, as a static argument


@pytest.mark.parametrize("value", NO_INTEGER, ids=repr)
@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_is_an_integer(name, value):
    if name in NOT_HASHABLE and isinstance(value, list | dict):
        pytest.skip("no static argument")
    rejected(lambda: INTEGERS[name](value), name.split(" of ")[0])


SEEDS = {
    "training": ("seed", lambda x: TrainConfig(seed=x)),
    "bootstrap": ("seed", lambda x: Bootstrap(3, 10, x)),
    "attribute": ("seed", lambda x: attribute_rollouts("sft", seed=x)),
    "check": ("seed", lambda x: proofs_check.check("T1", instances=1, seed=x)),
    "study": ("first_seed", lambda x: Settings(("rloo",), sweep=None, first_seed=x)),
    "sweep": ("seed", lambda x: from_dict(Settings, {"arms": ["rloo"], "sweep": {"seed": x}})),
}


@pytest.mark.parametrize("value", NO_SEED, ids=repr)
@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_has_32_bits(name, value):
    field, call = SEEDS[name]
    rejected(lambda: call(value), field)


@pytest.mark.parametrize("value", [*NO_NUMBER, 0, -1.0], ids=repr)
@pytest.mark.parametrize("name", ["temperature", "learning_rate", "clip_norm", "work"])
def test_a_positive_number_is_one(name, value):
    calls = {"temperature": require_temperature, "work": lambda x: Job("j", "a:b", work=x)}
    rejected(lambda: calls.get(name, lambda x: TrainConfig(**{name: x}))(value), name)


NAMED = {name: f for f in OBJECTIVES for name in defaults(OBJECTIVES[f]) or {}}
OPTIONS = [
    (name, value) for name in LIMITS if name in NAMED for value in ["0.5", True, float("nan"), float("inf"), -1e400]
]
OPTIONS += [(name, -1) for name in LIMITS if name in NAMED and LIMITS[name].low >= 0]
OPTIONS += [(name, 2.5) for name in LIMITS if name in NAMED and LIMITS[name].whole]
OPTIONS += [(name, 1.5) for name in ("discount", "gae_lambda")]


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=repr)
def test_options_of_objectives_are_numbers_that_they_can_be(name, value):
    assert f", for {NAMED[name]}" in rejected(lambda: resolve(NAMED[name], {name: value}), name)


def test_every_number_among_the_options_has_its_limits_and_its_default_is_inside():
    for objective, function in OBJECTIVES.items():
        for name, default in (defaults(function) or {}).items():
            if isinstance(default, int | float) and not isinstance(default, bool):
                assert name in LIMITS, f"{objective} {name}"
                assert LIMITS[name].hold(default), f"{objective} {name}"


ABSURD = [
    ({"layers": 10**12}, "layers and model_width"),
    ({"model_width": 4 * 10**9}, "layers and model_width"),
    ({"rounds": 10**15}, "prompts, group and rounds"),
    ({"prompts": 10**15}, "prompts, group and rounds"),
    ({"group": 10**15}, "prompts, group and rounds"),
    ({"problem_set": 10**15}, "problem_set"),
    ({"evaluation_problems": 10**15}, "evaluation_problems and rounds"),
    ({"updates": 10**15, "evaluate_every": 1, "chunk": 1}, "updates"),
]


@pytest.mark.parametrize(("fields", "field"), ABSURD, ids=str)
def test_sizes_that_no_machine_has(fields, field):
    assert field == "updates" or "of memory, not at least" in rejected(lambda: TrainConfig(**fields), field)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("field", ["batch", "length", "rounds", "width", "repeats", "steps"])
def test_sizes_that_this_machine_does_not_have(field, value):
    if (field, value) == ("length", 10**9):
        value = 10**10
    rejected(lambda: BenchConfig(**{field: value * 8, **({"batch": 8} if field != "batch" else {})}), field)


@pytest.mark.parametrize("value", HUGE[1:])
def test_more_of_a_study_than_there_can_be(value):
    for field in ("seeds", "attempts", "evaluation_problems"):
        rejected(lambda field=field: Settings(("rloo",), sweep=None, **{field: value * 10**3}), "")
    for sweep in ({"problems": value}, {"seed": value}, {"prompts": [0]}):
        rejected(lambda sweep=sweep: from_dict(Settings, {"arms": ["rloo"], "sweep": sweep}), "sweep")
    rejected(lambda: Settings(("rloo",), ("none",), seeds_of={"none": value}, sweep=None), "seeds")
    rejected(lambda: proofs_check.check("T1", instances=value), "instances")
    rejected(lambda: Bootstrap(3, value * 10), "resamples")


@pytest.mark.parametrize("amount", [0, -1, "1", None, float("nan"), float("inf")], ids=repr)
def test_resources_are_amounts(amount):
    rejected(lambda: run_on_dask(None, 1, {"GPU": amount}), "resources GPU")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "arguments",
    [
        "check --instances 1000000000000000",
        "check --seed 4294967296",
        "check --statistical --seed 4294967296",
        "train tiny.json --run run --layers 1000000000000",
        "train tiny.json --run run --seed 4294967296",
        "train tiny.json --run run --updates 1e3",
        "train tiny.json --run run --cost -Infinity",
        "atlas --objective grpo --option clip=-1",
        "atlas --objective grpo --option group_size=2.5",
        "atlas --objective grpo --option max_tokens=0",
        "atlas --objective grpo --option token_kl=-0.1",
        "atlas --objective grpo --length 1000000000000",
        "bench --batch 1000000000000",
        "quickstart --out run --instances 1000000000000000",
        "quickstart --out run --seed 4294967296",
    ],
)
def test_on_the_command_line(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps({"updates": 4, "evaluate_every": 2, "chunk": 1}))
    refused(arguments.split(), capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]


def test_a_process_takes_integers_of_numpy_too():
    table = np.ones((1, 2))
    given = {"prompt_law": np.ones(1), "reward_table": table, "vocabulary": np.int64(2), "length": 1, "rounds": 2}
    assert DecisionSamplingProcess.create(**given).num_trajectories == 6


def test_an_error_is_one_line_whatever_the_names_are():
    said = rejected(lambda: pairs("set", ["a\nb=1", "a\nb=2"]), "set")
    assert said == "set: received 'a\\nb=2'; allowed: each name once (also a b=1)"


def test_memory_in_words():
    require_memory("x", 1, 10, 10)
    with pytest.raises(InputError, match=r"at most 10 B of memory, not at least 8 PB"):
        require_memory("x", 1, 8e15, 10)
    assert [size_of(x) for x in (0, 999, 1e3, 2.5e12, 1e17, 10**400)] == [
        *("0 B", "999 B", "1 kB", "2.5 TB", "100 PB", "more than 1000 EB")
    ]


def test_what_the_command_says_is_what_python_says():
    with pytest.raises(InputError) as found:
        raise_from(["check", "--instances", "0"])
    assert str(found.value) == rejected(lambda: proofs_check.check(instances=0), "instances")
