"""Configurations from plain data: what is refused, and that each refusal names field, value and what is allowed."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, Literal

import pytest

from dsjax.config import differences, from_dict, load, require_int, require_positive, to_dict
from dsjax.errors import InputError, require
from dsjax.objectives import resolve
from dsjax.training.arms import ARMS, Arm, arm_of
from dsjax.training.bench import BenchConfig
from dsjax.training.config import TrainConfig

INFINITY, NAN = float("inf"), float("nan")


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 2
    rate: float = 0.5

    def __post_init__(self) -> None:
        require_int("depth", self.depth, 1, "a network needs a layer")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    name: str = "a"
    on: bool = False
    limit: float | None = None
    kind: Literal["x", "y"] = "x"
    sizes: tuple[int, ...] = (1, 2)


def refused(call, *arguments, **named) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    error = caught.value
    assert str(error) == f"{error.field}: received {error.received!r}; allowed: {error.allowed}"
    assert error.allowed
    assert "\n" not in str(error)
    return error


def test_plain_data_makes_the_round_trip():
    config = Outer(Inner(3, 0.25), "b", True, 1.5, "y", (4,))
    data = to_dict(config)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert from_dict(Outer, data) == config
    assert from_dict(TrainConfig, to_dict(TrainConfig())) == TrainConfig()
    assert from_dict(Outer, {}) == Outer()
    assert from_dict(Outer, {"inner": {"rate": 1}, "limit": None}) == Outer(Inner(rate=1.0))
    assert isinstance(from_dict(Inner, {"rate": 1}).rate, float)  # 1 and 1.0 are the same number in JSON


@pytest.mark.parametrize(
    ("data", "field", "received", "allowed"),
    [
        ({"bogus": 1}, "configuration field", "bogus", "inner, name, on, limit, kind, sizes"),
        ({"inner": {"bogus": 1}}, "configuration field", "inner.bogus", "depth, rate"),
        ({"inner": 3}, "inner", 3, "an object with named fields"),
        ([], "configuration", [], "an object with named fields"),
        ({"inner": {"depth": "2"}}, "inner.depth", "2", "an integer"),
        ({"inner": {"depth": 2.5}}, "inner.depth", 2.5, "an integer"),
        ({"inner": {"depth": True}}, "inner.depth", True, "an integer"),
        ({"inner": {"depth": None}}, "inner.depth", None, "an integer"),
        ({"inner": {"depth": 0}}, "depth", 0, "an integer >= 1 (a network needs a layer)"),
        ({"inner": {"rate": "fast"}}, "inner.rate", "fast", "a finite number"),
        ({"inner": {"rate": True}}, "inner.rate", True, "a finite number"),
        ({"inner": {"rate": float("inf")}}, "inner.rate", float("inf"), "a finite number"),
        ({"inner": {"rate": 10**400}}, "inner.rate", 10**400, "a finite number"),
        ({"limit": "none"}, "limit", "none", "a finite number"),
        ({"name": 3}, "name", 3, "text"),
        ({"on": 1}, "on", 1, "true or false"),
        ({"kind": "z"}, "kind", "z", "x, y"),
        ({"sizes": 4}, "sizes", 4, "a list"),
        ({"sizes": "12"}, "sizes", "12", "a list"),
        ({"sizes": [1, "2"]}, "sizes", "2", "an integer"),
    ],
)
def test_unknown_fields_and_wrong_types(data, field, received, allowed):
    error = refused(from_dict, Outer, data)
    assert (error.field, error.received, error.allowed) == (field, received, allowed)


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...] = ()


def test_what_has_no_default_must_be_given():
    assert from_dict(Whole, {"parts": [{"name": "a"}]}) == Whole((Part("a"),))
    with pytest.raises(InputError, match=r"^parts\.name: received 'nothing'; allowed: a value: it has no default"):
        from_dict(Whole, {"parts": [{"size": 2}]})
    with pytest.raises(InputError, match=r"^name: received"):
        from_dict(Part, {})


def test_nan_is_not_a_number_to_configure_with():
    assert refused(from_dict, Inner, {"rate": float("nan")}).field == "rate"


@pytest.mark.parametrize("config", [TrainConfig, BenchConfig])
def test_python_is_refused_in_the_words_of_a_file(config):
    """Text, a fraction where an integer belongs, NaN, and a number where text belongs, for every field of that type."""
    numbers: dict[Any, tuple[Any, ...]] = {int: ("3", 2.5, 2.0, True, NAN), float: ("x", True, NAN, INFINITY)}
    bad = {**numbers, bool: (1, "true"), str: (3,)}
    kinds = {name: (hint, *typing.get_args(hint)) for name, hint in typing.get_type_hints(config).items()}
    fields = [(name, kind) for name, found in kinds.items() for kind in bad if kind in found]
    assert len(fields) >= 10
    for name, kind in fields:
        for value in bad[kind]:
            error = refused(config, **{name: value})
            assert (error.field, error.received) == (name, value) or value != value
            assert str(error) == str(refused(from_dict, config, {name: value}))
    assert refused(config, history="some").allowed == "none, full"


def test_files(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"inner": {"depth": 4}, "sizes": [3]}')
    assert load(Outer, file) == Outer(Inner(4), sizes=(3,))
    assert load(Outer, str(file)) == load(Outer, file)
    file.write_text('{"bogus": 1}')
    assert refused(load, Outer, file).field == "configuration field"


@pytest.mark.parametrize("content", [b"", b"{", b"{'seed': 1}", b'{"seed": 1}x', b"\xff\xfe\x00", b"seed=1"])
def test_bad_json_names_the_file(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    error = refused(load, Outer, file)
    assert (error.field, error.received) == ("configuration file", str(file))
    assert error.allowed.startswith("a readable JSON file (")
    assert file.read_bytes() == content


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        error = refused(load, Outer, path)
        assert (error.field, error.received) == ("configuration file", str(path))
        assert reason in error.allowed


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(TrainConfig) if f.type in ("int", "float")])
def test_every_number_of_a_training_has_a_lower_end(name):
    whole = isinstance(getattr(TrainConfig(), name), int)
    for bad in (-1,) if whole else (-1.0, INFINITY, NAN):
        error = refused(TrainConfig, **{name: bad})
        assert error.field == name
        assert error.received is bad


@pytest.mark.parametrize(
    ("fields", "field", "allowed"),
    [
        ({"rounds": 1}, "rounds", "an integer >= 2 (with one round there is nothing to decide)"),
        ({"rounds": 2.0}, "rounds", "an integer"),
        ({"seed": 2**32}, "seed", "0..2^32-1"),
        ({"digits": 0}, "digits", "1..64"),
        ({"digits": 3, "width": 2}, "width", "3..64, or 0 for 3"),
        ({"temperature": 0.0}, "temperature", "> 0"),
        ({"clip_norm": 0.0}, "clip_norm", "a finite number > 0"),
        ({"learning_rate": "1e-3"}, "learning_rate", "a finite number"),
        ({"group": 1}, "group", "an integer >= 2 (a leave-one-out baseline needs others)"),
        ({"arm": "sft-self", "group": 0}, "group", "an integer >= 1"),
        ({"arm": "nonsense"}, "arm", ", ".join(["base", *ARMS, "module:name"])),
        ({"heads": 5}, "model_width", "a multiple of heads = 5"),
        ({"chunk": 7}, "evaluate_every", "a multiple of chunk = 7"),
        ({"updates": 950}, "updates", "a multiple of evaluate_every = 100"),
    ],
)
def test_impossible_values_say_what_is_allowed(fields, field, allowed):
    error = refused(TrainConfig, **fields)
    assert error.field == field
    assert error.allowed.startswith(allowed)


def test_a_group_of_one_is_enough_without_a_baseline():
    assert TrainConfig(arm="sft-self", group=1).group == 1


def test_number_checks():
    for bad in (0, 1.0, True, None, "3", NAN):
        assert refused(require_int, "n", bad, 1).allowed == "an integer >= 1"
    require_int("n", 1, 1)
    for bad in (0, -1, 0.0, True, None, "3", NAN, INFINITY):
        assert refused(require_positive, "x", bad).allowed == "a finite number > 0"
    require_positive("x", 1e-300)
    assert refused(require, False, "x", 1, ("a", "b")).allowed == "a, b"
    require(True, "x", 1, "anything")


def test_differences_lists_every_leaf_that_differs():
    a: dict[str, Any] = {"x": 1, "y": {"z": 2, "same": 0}, "only_a": 3, "list": [1, 2]}
    b: dict[str, Any] = {"x": 1.5, "y": {"z": 2, "same": 0, "new": 4}, "list": [1, 3]}
    assert differences(a, b) == [
        ("x", 1, 1.5),
        ("y.new", None, 4),
        ("only_a", 3, None),
        ("list", [1, 2], [1, 3]),
    ]
    assert differences({"x": {"y": 1}}, {"x": 2}) == [("x", {"y": 1}, 2)]
    assert differences(a, json.loads(json.dumps(a))) == []
    one, two = to_dict(TrainConfig()), to_dict(TrainConfig(seed=1, arm="grpo"))
    assert [name for name, _, _ in differences(one, two)] == ["seed", "arm"]


@pytest.mark.parametrize(
    ("objective", "option", "allowed"),
    [
        ("sft", "decison_weight", {"decision_weight"}),
        ("reinforce", "bate", {"baseline", "reward_kl", "token_kl", "kl_estimator"}),
        ("rloo", "baseline", {"reward_kl", "token_kl", "kl_estimator"}),
        ("rloo", "logp_BxS", {"reward_kl", "token_kl", "kl_estimator"}),
        ("grpo", "clip_low", {"clip", "clip_high", "token_kl", "group_size", "reward_support", "epsilon"}),
        ("own_token_kl", "beta", {"estimator", "aggregation"}),
        ("trajectory_kl", "traj", {"no option at all"}),
        (f"{__name__}:scaled", "shift", {"scale"}),
    ],
)
def test_an_unknown_option_of_an_arm_is_named(objective, option, allowed):
    error = refused(Arm, "on-policy", objective, "reward", {option: 1.0})
    assert (error.field, error.received) == (f"option of objective {objective}", option)
    listed = set(error.allowed.split(", "))
    assert allowed <= listed
    assert not listed & {option, "logp_BxS", "traj"}


def scaled(logp, traj, scale=1.0):
    return scale * logp, traj


def anything(logp, traj, **options):
    return logp, traj, options


def test_options_of_a_users_function_are_passed_on():
    own: Any = resolve(f"{__name__}:scaled", {"scale": 2.0})
    assert own(3.0, None) == (6.0, None)
    free: Any = resolve(f"{__name__}:anything", {"free": 2.0})
    assert free(3.0, None) == (3.0, None, {"free": 2.0})


@pytest.mark.parametrize(
    ("field", "arm"),
    [
        ("source", ("nowhere", "sft", "sft")),
        ("objective", ("success", "nothing", "sft")),
        ("family", ("success", "sft", "other")),
        ("component", ("success", "sft", "sft", {}, "verifier")),
    ],
)
def test_every_part_of_an_arm_is_checked(field, arm):
    assert refused(Arm, *arm).field == field


def test_an_unknown_arm_lists_the_known_ones():
    error = refused(arm_of, "dpo")
    assert (error.field, error.received, error.allowed) == ("arm", "dpo", ", ".join([*ARMS, "module:name"]))
    for name, arm in ARMS.items():
        assert arm_of(name) is arm
