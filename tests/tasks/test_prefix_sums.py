"""Prefix sums: the chain of steps, the splits, and demonstrations that mix chains with guesses (T17)."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dsjax.errors import InputError
from dsjax.tasks import Addition, PrefixSums
from dsjax.training.config import TrainConfig
from dsjax.training.sources import SOURCES, Setting
from dsjax.trajectories import RESAMPLE

TASK = PrefixSums(6, 8, 3)


@pytest.mark.parametrize(("split", "used"), [("in", 6), ("longer", 8)])
def test_steps_are_the_sums_of_the_first_digits(split, used):
    problems = TASK.training_problems(jax.random.key(0), 50, split)
    digits = np.asarray(problems.prompt)
    assert (digits[:, :used] < 3).all()
    assert (digits[:, used:] == 3).all()
    answers, last = (np.asarray(x) for x in TASK.steps(problems))
    assert (last == used - 1).all()
    for t in range(8):
        np.testing.assert_array_equal(answers[:, t, 0], digits[:, : min(t + 1, used)].sum(1) % 3)
    np.testing.assert_array_equal(problems.answer[:, 0], digits[:, :used].sum(1) % 3)
    assert TASK.text(problems.prompt[0]).count("+") == used - 1


def test_held_out_problems_are_counted():
    task = PrefixSums(6, 0, 3)
    count = task.held_out("in")
    assert count is not None
    assert len(np.unique(np.asarray(task.evaluation_problems("in", count).prompt), axis=0)) == count
    with pytest.raises(InputError, match=f"at most {count}"):
        task.evaluation_problems("in", count + 1)
    assert PrefixSums(64).held_out("in") is None


def test_demonstrations_mix_chains_with_guesses():
    rows, share = 4000, 0.25
    setting = Setting(TASK, rounds=8, prompts=rows, group=1, cost=0.125, chain_share=share)
    problems = setting.problems(jax.random.key(1), jax.random.key(3))
    traj = SOURCES["chains-and-guesses"](setting, None, None, None, problems, jax.random.key(2))
    decision = np.asarray(traj.decision_mask)
    resamples = (np.asarray(traj.tokens) == RESAMPLE) & decision
    length = resamples.sum(1)
    chain = length == 5  # six digits: RESAMPLE after each step but the last
    assert set(length.tolist()) == {0, 5}

    def near(found: float, expected: float, n: int) -> bool:
        """Within five binomial standard deviations."""
        return abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n)

    assert near(chain.mean(), share, rows)
    reward = np.asarray(traj.reward)
    np.testing.assert_allclose(reward[chain], 1 - 5 * 0.125)  # the chain is right, and pays for its rounds
    assert near(reward[~chain].mean(), 1 / 3, (~chain).sum())
    answers = np.asarray(traj.tokens)[:, 0]
    first = np.asarray(problems.prompt)[:, 0]
    assert (answers[chain] == first[chain]).all()
    # P(STOP | first answer = prefix) of the data is T17's.
    prefix = answers == first
    s = 1 / 3
    assert near((~chain[prefix]).mean(), (1 - share) * s / (share + (1 - share) * s), prefix.sum())


def test_what_chains_need():
    problems = TASK.training_problems(jax.random.key(0), 2)
    with pytest.raises(InputError, match="rounds: received 7; allowed: at least 8"):
        SOURCES["chains-and-guesses"](Setting(TASK, 7, 2, 1), None, None, None, problems, jax.random.key(0))
    with pytest.raises(InputError, match="a task with intermediate answers"):
        Addition(2).steps(Addition(2).training_problems(jax.random.key(0), 2))
    with pytest.raises(InputError, match="chain_share"):
        TrainConfig(chain_share=1.5)
    with pytest.raises(InputError, match="modulus"):
        PrefixSums(4, modulus=1)
    base = TrainConfig(
        task="prefix_sums", digits=6, rounds=6, history="full", arm="base", base_source="chains-and-guesses"
    )
    assert base.objective_of.source == "chains-and-guesses"
