"""Right-hand sides against loops over trajectories."""

import jax
import numpy as np
import pytest

from dsjax.trajectories import RESAMPLE, STOP
from proofs_check.closed_forms import context_counts, standardised, tree_logits
from proofs_check.instances import Shape, binary_table, draw, enumerated

pytestmark = pytest.mark.usefixtures("x64")


def offset(base, terms):
    return sum(base**i for i in range(terms))


@pytest.mark.parametrize("history", ["none", "full"])
def test_context_counts(history):
    V, L, T, Q = 2, 2, 2, 2
    shape = Shape(rounds=T, length=L, vocabulary=V, prompts=Q, history=history)

    @jax.jit
    def both(key):
        instance = draw(key, shape)
        traj, _ = enumerated(instance)
        return instance, traj, context_counts(instance.process, traj.weight)

    instance, traj, counts = both(jax.random.key(0))
    shapes = instance.policy.base.shapes()
    sample, decide = np.zeros(shapes["sample"]), np.zeros(shapes["decision"])
    tokens = np.asarray(traj.tokens).reshape(-1, T, L + 1)
    decided = np.asarray(traj.decision_mask).reshape(-1, T, L + 1)
    sampled = np.asarray(traj.sample_mask).reshape(-1, T, L + 1)
    for i, weight in enumerate(np.asarray(traj.weight)):
        q, past = int(traj.prompt[i, 0]), 0
        for t in range(T):
            h = offset(V**L, t) + past if history == "full" else 0
            code = 0
            for j in range(L):
                if sampled[i, t, j]:
                    sample[q, h, offset(V, j) + code, tokens[i, t, j]] += weight
                code = code * V + tokens[i, t, j]
            if decided[i, t, L]:
                decide[q, h, code, tokens[i, t, L]] += weight
            past = past * V**L + code
    np.testing.assert_allclose(counts["sample"], sample, atol=1e-15)
    np.testing.assert_allclose(counts["decision"], decide, atol=1e-15)
    assert (STOP, RESAMPLE) == (0, 1)


def test_tree_logits_give_back_the_law_of_answers():
    @jax.jit
    def there_and_back(key):
        instance = draw(key, Shape(rounds=2, length=3, vocabulary=2, history="none"))
        law = instance.process.tables(enumerated(instance)[1]).log_sample[0]
        params = {**instance.params, "sample": tree_logits(instance.process, law)}
        return law, instance.process.tables(enumerated(instance.replace(params=params))[1]).log_sample[0]

    law, again = there_and_back(jax.random.key(1))
    np.testing.assert_allclose(again, law, atol=1e-14)


def test_standardised():
    log_p = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (4, 5)))
    z, p = standardised(jax.random.normal(jax.random.key(1), (4, 5)), log_p), np.exp(log_p)
    np.testing.assert_allclose((p * z).sum(-1), 0, atol=1e-14)
    np.testing.assert_allclose((p * z**2).sum(-1), 1, atol=1e-14)


def test_binary_table_has_right_and_wrong_answers():
    for seed in range(20):
        coins, order = jax.random.uniform(jax.random.key(seed), (2, 3, 4))
        table = np.asarray(binary_table(coins, order))
        assert set(np.unique(table)) == {0.0, 1.0}
        assert table.any(-1).all()
        assert not table.all(-1).any()
