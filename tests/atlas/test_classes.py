"""In what sense objectives are balanced: the classes of T20, for all that are registered and for own losses."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax.atlas.classes import COEFFICIENTS, FILLER, Classes, Classifier, Moved, filler_class
from dsjax.atlas.laws import generic_scenario, standard_scenario
from dsjax.atlas.measure import objective_on
from dsjax.numerics import exact
from dsjax.objectives import OBJECTIVES, Entry, own_token_kl, reinforce, resolve, sft
from dsjax.objectives.aggregation import aggregate
from proofs_check.theorems.t20_balanced.numeric import CLASSES, SHOWN

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
# Options that change the class.
OPTIONS = (
    ("sft", {"decision_weight": 32.0}, Classes("never", "per token")),
    ("rft", {"decision_weight": 2.0}, Classes("never", "none")),
    ("own_token_kl", {"estimator": "k1"}, Classes("always", "undefined")),
    ("own_token_kl", {"estimator": "k3_ratio"}, Classes("never", "per token")),
    ("distillation", {"discount": 1.0}, Classes("never", "per attempt")),
    ("reinforce", {"reward_kl": 0.1}, Classes("always", "per attempt")),
    ("rloo", {"token_kl": 0.1}, Classes("never", "per token")),
    ("grpo", {"token_kl": 0.1}, Classes("never", "coupled")),  # divided by T_i
)


@pytest.fixture(scope="module")
def classify():
    with exact():
        scenario = generic_scenario()
        classifier = Classifier.of(scenario)

    def ask(objective, **options):
        shown = objective in (*SHOWN, "sft_sequence_sum", sft)
        with exact():
            return classifier(objective_on(Entry(objective, options, shown), scenario), shown)

    return ask


def page_classes():
    """{objective: (coefficients, filler)} as the table of docs/objectives.md has them."""
    table = PAGE.partition("\n## Table\n\n")[2].partition("\n\n")[0]
    header, _, *rows = [line.strip("|").split(" | ") for line in table.splitlines()]
    at = [i for i, name in enumerate(header) if name.strip() in ("coefficients", "filler")]
    assert len(at) == 2
    return {row[0].strip(" `"): Classes(*(row[i].strip() for i in at)) for row in rows}


def test_every_registered_objective_has_a_class_in_theory_and_on_the_page():
    assert CLASSES.keys() == OBJECTIVES.keys()
    assert page_classes() == {name: found for name, found in CLASSES.items() if name != "surrogate"}
    assert {found.coefficients for found in CLASSES.values()} == set(COEFFICIENTS)
    assert {found.filler for found in (*CLASSES.values(), *(row[-1] for row in OPTIONS))} == set(FILLER)


@pytest.mark.parametrize("name", CLASSES)
def test_a_registered_objective_is_of_the_class_that_theory_says(name, classify):
    assert classify(name) == CLASSES[name]


@pytest.mark.parametrize(("name", "options", "expected"), OPTIONS)
def test_options_change_the_class(name, options, expected, classify):
    assert classify(name, **options) == expected


def test_uniform_demonstrations_hide_what_dft_gives_to_filler():
    with exact():
        standard = Classifier.of(standard_scenario())
        assert standard(resolve("dft"), True).filler == "none"
        assert standard(resolve("sft"), True).filler == "per token"


def stopped(logp_BxS, traj):
    """Equal coefficients, no function of sums: what a stop-gradient hides does not count."""
    square = jax.lax.stop_gradient(jnp.sum(jnp.where(traj.mask, logp_BxS**2, 0.0), -1, keepdims=True))
    return aggregate(square * logp_BxS, traj, "sequence_sum")


def longer_counts_more(logp_BxS, traj, *, weight=1.0):
    """Reward on decisions in proportion to the length: grows with it, but along no price."""
    scale = jnp.where(traj.decision_mask, weight * traj.num_tokens[:, None], 1.0)
    kl, count = own_token_kl(logp_BxS, traj)
    return aggregate(-traj.reward[:, None] * scale * logp_BxS, traj, "sequence_sum")[0] + kl, count


def late_clip(logp_BxS, traj):
    """Reward on sums, until a token's probability has more than doubled."""
    far = jax.lax.stop_gradient(logp_BxS - traj.old_logp) > np.log(2.0)
    return aggregate(jnp.where(far, 0.0, -traj.reward[:, None] * logp_BxS), traj, "token_mean")


def scaled(objective, by):
    """The same at another scale, which depends on the length: a normaliser that all tokens share is no class."""

    def loss(logp_BxS, traj):
        total, count = objective(logp_BxS, traj)
        return by * total, count * jnp.max(traj.num_tokens) ** 2

    return loss


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (stopped, ("always", "coupled")),
        (longer_counts_more, ("never", "coupled")),
        (late_clip, ("on-policy", "none")),
        (scaled(own_token_kl, 1e-6), ("never", "per token")),
        (scaled(reinforce, 1e6), ("always", "none")),
        (lambda logp, traj: (0.0 * logp.sum(), traj.weight.sum()), ("always", "undefined")),
    ],
)
def test_own_losses_are_told_by_the_same_code(objective, expected, classify):
    assert classify(objective) == expected


def moved(rest, energy=1.0):
    """A gradient on two parameters by number of filler tokens 1, 2, 3; the price is along the first."""
    one = jnp.ones(3)
    return Moved(1.0 + jnp.arange(3.0), jnp.asarray(rest, float), energy * one, one, one, one, jnp.asarray([1.0, 0.0]))


def test_growth_is_a_price_only_if_it_is_affine_and_along_the_price(x64):
    assert filler_class(moved([[1, 1], [1, 1], [1, 1]])) == "per token"
    assert filler_class(moved([[1, 1], [2, 1], [3, 1]])) == "per attempt"
    assert filler_class(moved([[1, 1], [1, 2], [1, 3]])) == "coupled"
    assert filler_class(moved([[1, 1], [2, 1], [4, 1]])) == "coupled"
    assert filler_class(moved([[1, 1], [1 + 1e-5, 1], [1 + 2e-5, 1]])) == "coupled"  # too weak to be told
    assert filler_class(moved([[1, 1], [2, 1], [3, 1]], energy=0.0)) == "none"
