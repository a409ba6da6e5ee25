"""Imitation of own episodes, in expectation: of all of them it teaches nothing, of successes to stop at right answers.

So a policy that imitates its successes and ends in resampling always does not follow its gradient there: see "why
imitation of successes ends in resampling" in docs/experiments.md.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dsjax.attribution import component_gradients
from dsjax.objectives import resolve
from dsjax.training.arms import ARMS
from dsjax.trajectories import RESAMPLE, STOP
from tests.cases import TIGHT, Shape, enumerated, make_case


@pytest.fixture(scope="module")
def gradients():
    """By arm, on-policy: gradients of a saturated policy's logits, [prompts, 1, answers, 2] of its decisions."""
    with jax.enable_x64(True):
        case = make_case(Shape(3, 1, 3, 2, "none"), seed=3, binary=True)
        traj = enumerated(case.process, case.policy, case.params)
        found = {
            name: component_gradients(case.policy, case.params, traj, resolve(ARMS[name].objective, ARMS[name].options))
            for name in ("imitate-all", "rft", "reinforce-plain")
        }
        return found, np.asarray(case.process.reward_table) == 1.0


def test_imitating_every_episode_has_no_expected_gradient(gradients):
    found, _ = gradients
    total = found["imitate-all"].total
    assert max(np.abs(x).max() for x in jax.tree.leaves(total)) < TIGHT
    assert max(np.abs(x).max() for x in jax.tree.leaves(found["rft"].total)) > 0.01  # the control


def test_imitating_successes_stops_at_right_answers_and_not_at_wrong_ones(gradients):
    found, right = gradients
    towards_stop = np.asarray(found["rft"].decision["decision"])[:, 0, :, STOP]
    assert right.any()
    assert (towards_stop[right] > 0).all()
    assert (towards_stop[~right] < 0).all()
    np.testing.assert_allclose(
        np.asarray(found["rft"].decision["decision"])[:, 0, :, RESAMPLE], -towards_stop, atol=TIGHT
    )


def test_imitating_successes_has_the_direction_of_reward_without_a_baseline(gradients):
    found, _ = gradients
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(found[n].total)]) for n in ("rft", "reinforce-plain"))
    assert a @ b == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b), rel=TIGHT)
