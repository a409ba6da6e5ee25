"""Losses of a user's own on a law: the right coefficients, or a refusal that explains."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsjax as ds
from dsjax.atlas.laws import on_policy, parameters, standard_scenario, structure, structured_logp, trajectories
from dsjax.atlas.measure import measure
from dsjax.atlas.rows import sign_errors
from dsjax.attribution import share
from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.numerics import compile_quickly
from dsjax.objectives import OBJECTIVES, resolve
from dsjax.objectives.law import on_law
from dsjax.objectives.returns import coefficients
from dsjax.rollouts import attribute_rollouts
from tests.cases import TIGHT, Shape, enumerated, make_case, ragged_batch
from tests.objectives.reference import quick_jit


def masked(logp, traj, A=None):
    A = traj.reward if A is None else A
    return jnp.where(traj.mask, -A[:, None] * logp, 0.0)


def token_mean(logp, traj):
    """As pasted from a trainer: rows are equal."""
    return masked(logp, traj).sum(), traj.mask.sum()


def token_mean_divided(logp, traj):
    return masked(logp, traj).sum() / traj.num_tokens.sum(), 1


def row_mean(logp, traj):
    return (masked(logp, traj).sum(-1) / traj.num_tokens).mean(), 1.0


def ratio_sum(logp, traj):
    """Clipped, summed: no divisor at all."""
    rho, A = jnp.exp(logp - traj.old_logp), traj.reward[:, None]
    return masked(jnp.minimum(rho * A, jnp.clip(rho, 0.9, 1.1) * A), traj, jnp.ones_like(traj.reward)).sum(), 1.0


def under_the_law(logp, traj):
    w = traj.weight
    return (w[:, None] * masked(logp, traj)).sum(), (w * traj.num_tokens).sum()


def row_mean_under_the_law(logp, traj):
    return (traj.weight * masked(logp, traj).sum(-1) / traj.num_tokens).sum(), traj.weight.sum()


def ratio_sum_under_the_law(logp, traj):
    rows = traj.weight * len(traj.weight)
    rho, A = jnp.exp(logp - traj.old_logp), traj.reward[:, None]
    value = jnp.minimum(rho * A, jnp.clip(rho, 0.9, 1.1) * A)
    return -jnp.where(traj.mask, rows[:, None] * value, 0.0).sum(), 1.0


def batch_mean(logp, traj):
    return masked(logp, traj, traj.reward - traj.reward.mean()).sum(), traj.mask.sum()


def half_weighted(logp, traj):
    return (traj.weight[:, None] * masked(logp, traj)).sum(), traj.mask.sum()


def group_statistics(logp, traj):
    """As pasted from a trainer: statistics of groups whose rows are equal."""
    ones = jnp.ones_like(traj.reward)
    size, total, square = (
        jax.ops.segment_sum(x, traj.group, traj.num_groups)[traj.group] for x in (ones, traj.reward, traj.reward**2)
    )
    A = (traj.reward - total / size) / (jnp.sqrt(square / size - (total / size) ** 2) + 1e-4)
    return (masked(logp, traj, A).sum(-1) / traj.num_tokens).mean(), 1.0


def in_groups_of_seven(logp, traj):
    A = traj.reward.reshape(-1, 7) - traj.reward.reshape(-1, 7).mean(-1, keepdims=True)
    return masked(logp, traj, A.reshape(-1)).sum(), traj.mask.sum()


def one_number(logp, traj):
    return masked(logp, traj).mean()


def wrong_shapes(logp, traj):
    return masked(logp, traj).sum(-1), traj.mask.sum(-1)


def not_finite(logp, traj):
    return masked(logp, traj).sum() / 0.0, 1.0


def branches(logp, traj):
    return (masked(logp, traj).sum(), 1.0) if logp.sum() > 0 else (0.0, 1.0)


REFUSED = {
    batch_mean: "where a row is split",
    half_weighted: "where a row is split.*statistics of a batch or group must be taken",
    group_statistics: "where a row is split",
    in_groups_of_seven: r"cannot reshape .*test_law.py, line \d+\)",
    one_number: "1 value of shape .*two numbers, .sum, count.",
    wrong_shapes: r"2 values of shapes \(\d+,\), \(\d+,\)",
    not_finite: "received '(nan|-?inf) at .*finite numbers",
    branches: "TracerBoolConversionError",
}


def compiled(objective):
    return quick_jit(partial(coefficients, objective))


def law():
    """Trajectories of one and two rounds, two prompts, unequal probabilities."""
    case = make_case(Shape(2, 1, 2, 2, "full"), seed=2, binary=True)
    traj = enumerated(case.process, case.policy, case.params)
    assert traj.old_logp is not None
    logp = np.asarray(traj.old_logp)
    return case, traj.old_logp, traj.replace(ref_logp=jnp.asarray(1.5 * logp), values=jnp.asarray(0.1 * logp))


@pytest.mark.parametrize(
    ("pasted", "true"),
    [
        (token_mean, under_the_law),
        (token_mean_divided, under_the_law),
        (row_mean, row_mean_under_the_law),
        (ratio_sum, ratio_sum_under_the_law),
    ],
)
def test_a_mean_over_equal_rows_is_weighted(pasted, true, x64):
    """Coefficients of the pasted loss become those of the loss written for a law; before, every row weighed 1/B."""
    _, logp, traj = law()
    expected = compiled(true)(1.2 * logp, traj)
    found = compiled(on_law(pasted, logp, traj))(1.2 * logp, traj)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TIGHT)
    assert np.abs(np.asarray(compiled(pasted)(1.2 * logp, traj)) - expected).max() > 0.01
    assert on_law(true, logp, traj) is true


@pytest.mark.parametrize("loss", REFUSED)
def test_what_fits_no_law_is_refused_by_name(loss, x64):
    _, logp, traj = law()
    with pytest.raises(InputError, match=f"tests.objectives.test_law:{loss.__name__}.*({REFUSED[loss]})"):
        on_law(loss, logp, traj)


def test_every_objective_of_the_library_respects_weights(x64):
    """What lets `on_law` take them as they are: in two batches of split rows each part has its part."""
    from dsjax.objectives import law as on

    _, logp, traj = law()
    functions = {name: resolve(name) for name in OBJECTIVES}
    assert all(on_law(f, logp, traj) is f for f in functions.values())
    batches = [(*on._split(1.2 * logp, traj, *split), split) for split in on._splits(traj)]
    ask = compile_quickly(lambda *batch: {n: coefficients(f, *batch) for n, f in functions.items()}, *batches[0][:2])
    whole = jax.jit(lambda *batch: {n: coefficients(f, *batch) for n, f in functions.items()})(1.2 * logp, traj)
    for logp_NxS, rows, (source, part) in batches:
        for name, c in ask(logp_NxS, rows).items():
            np.testing.assert_allclose(c, part[:, None] * np.asarray(whole[name])[source], rtol=0, atol=1e-11)


def test_attribute_and_files_with_weights_ask_the_same_way(x64):
    case, logp, traj = law()
    c = abs(compiled(under_the_law)(logp, traj))
    found = ds.attribute(case.policy, case.params, traj, token_mean).block_share
    assert float(found) == pytest.approx(float(jnp.where(traj.decision_mask, c, 0.0).sum() / c.sum()), rel=1e-10)
    with pytest.raises(InputError, match="test_law:batch_mean"):
        ds.attribute(case.policy, case.params, traj, batch_mean)
    logp, batch = ragged_batch()
    arrays: dict[str, Any] = {
        n: np.asarray(getattr(batch, n)) for n in ("sample_mask", "decision_mask", "reward", "group")
    }
    arrays |= {"logp": np.asarray(logp), "decision_choices": 2, "resamples": 5}
    weight = np.arange(1.0, 9.0)
    pasted, true = (attribute_rollouts(f, **arrays, weight=weight) for f in (token_mean, under_the_law))
    np.testing.assert_allclose(pasted.coefficients, true.coefficients, rtol=0, atol=TIGHT)
    attribute_rollouts(batch_mean, **arrays)  # right on equal rows
    with pytest.raises(InputError, match="test_law:batch_mean"):
        attribute_rollouts(batch_mean, **arrays, weight=weight)


def test_the_atlas_gives_a_pasted_loss_the_share_of_its_law(x64):
    """27.45 % at any length, none of 6 signs wrong; rows of equal weight would give 1.9 % and 3 at long answers."""
    scenario, longest = standard_scenario(), 4
    x = structure(scenario, on_policy(scenario), 3)

    def shown(x):
        logp = structured_logp(parameters(scenario.policy, scenario.num_prompts), x, longest)
        return logp, trajectories(scenario, x, longest)

    objective = on_law(token_mean, *compile_quickly(shown, x)(x))
    m = compile_quickly(lambda x: measure(objective, scenario, x, x, longest), x)(x)
    assert float(share(m.energy_decision, m.energy_sample)) == pytest.approx(0.2744709818, rel=1e-9)
    assert sign_errors(m, scenario) == {"states": 6, "wrong": 0, "zero": 0}


@pytest.mark.parametrize(
    ("loss", "words"),
    [("group_statistics", "a row is split"), ("one_number", "two numbers"), ("branches", "TracerBoolConversionError")],
)
def test_the_command_refuses_at_once(loss, words, capsys, monkeypatch):
    """Before what only the other rows need is compiled."""
    monkeypatch.setattr("dsjax.atlas.rows._Atlas.of", None)
    assert main(["atlas", "--objective", f"{__name__}:{loss}"]) == 2
    said = capsys.readouterr().err
    assert f"{__name__}:{loss}" in said
    assert words in said
    assert "Traceback" not in said
