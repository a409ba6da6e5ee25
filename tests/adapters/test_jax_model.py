"""Score norms and projected gradients of a tiny Flax model, against `jax.grad`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dsjax.adapters import jax_model
from dsjax.adapters.gradients import gradient_arrays

V, S, B = 8, 5, 4
SCORES = jax.jit(partial(jax_model.token_scores, stop=4, chunk=4))
EPS = float(np.finfo(np.float32).eps)


class Model(nn.Module):
    """A causal mean of embeddings, and a head."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(V, 6)(ids)
        seen = jnp.cumsum(x, axis=1) / jnp.arange(1, ids.shape[1] + 1, dtype=x.dtype)[None, :, None]
        return nn.Dense(V, use_bias=False)(jnp.tanh(seen))


@pytest.mark.parametrize("peak", [0.0, 20.0, 45.0])
def test_score_norm_is_right_wherever_the_token_stands(peak):
    rng = np.random.default_rng(0)
    tokens = rng.integers(500, size=(2, 3))
    z = rng.normal(size=(2, 3, 500))
    np.put_along_axis(z, tokens[..., None], peak, -1)
    logits = jnp.asarray(z, jnp.bfloat16)
    found = {name: np.asarray(x) for name, x in SCORES(logits, jnp.asarray(tokens)).items()}
    z = np.asarray(logits, np.float64)
    log_pi = z - np.logaddexp.reduce(z, -1, keepdims=True)
    pi = np.exp(log_pi)
    others = np.arange(500) != tokens[..., None]
    exact = np.sqrt((pi * others).sum(-1) ** 2 + (pi**2 * others).sum(-1))
    np.testing.assert_allclose(found["score_norm"], exact, rtol=64 * EPS)
    np.testing.assert_allclose(found["stop_logp"], log_pi[..., 4], rtol=64 * EPS)
    np.testing.assert_allclose(found["logp"], np.log1p(-(pi * others).sum(-1)), rtol=64 * EPS)
    if peak:  # the control: the sum as it is written
        pi = jax.nn.softmax(logits.astype(jnp.float32))
        p = jnp.take_along_axis(pi, jnp.asarray(tokens)[..., None], -1)[..., 0]
        naive = np.sqrt(np.maximum(1 - 2 * p + jnp.sum(pi**2, -1), 0.0))
        assert np.abs(naive / exact - 1).max() > 64 * EPS


def test_component_gradients_are_those_of_the_loss(x64):
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(V, size=(B, S + 1)))
    params = Model().init(jax.random.key(0), ids)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    sample = jnp.asarray(rng.integers(2, size=(B, S)).astype(bool))
    c = jnp.asarray(rng.normal(size=(B, S)))

    def logp(p, at):
        rows = ids[at]
        logits: Any = Model().apply(p, rows[:, :-1])
        log_pi = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(log_pi, rows[:, 1:, None], -1)[..., 0]

    @jax.jit
    def unit(p, at, c, sample):
        of = partial(jax_model.component_gradients, lambda p: logp(p, at), p, c, sample, ~sample)
        return of(size=32, seed=2)

    @jax.jit
    def exact(p, mask):
        g = jax.grad(lambda p: jnp.sum(jnp.where(mask, c * logp(p, jnp.arange(B)), 0.0)))(p)
        return jax_model.sketch(g, 32, seed=2)

    rows = [unit(params, at, c[at], sample[at]) for at in (jnp.arange(2), jnp.arange(2, 4))]
    for (name, found), mask in zip(gradient_arrays(rows).items(), (sample, ~sample), strict=True):
        whole = exact(params, mask)
        np.testing.assert_allclose(found.mean(0), whole, atol=1e-13, err_msg=name)
        assert np.abs(whole).max() > 0.1


def test_projection_is_unbiased_with_the_variance_it_states():
    rng = np.random.default_rng(0)
    g, h = (rng.normal(size=(2, 40)) + 0.5).astype(np.float32)
    m, draws = 16, 4000

    @jax.jit
    @jax.vmap
    def product(seed):
        a, b = ({"w": x[:25].reshape(5, 5), "b": x[25:]} for x in (jnp.asarray(g), jnp.asarray(h)))
        return jnp.sum(jax_model.sketch(a, m, seed) * jax_model.sketch(b, m, seed))

    products = np.asarray(product(jnp.arange(draws)), np.float64)
    variance = ((g @ g) * (h @ h) + (g @ h) ** 2 - 2 * (g**2 * h**2).sum()) / m
    assert abs(products.mean() - g @ h) < 5 * np.sqrt(variance / draws)
    assert products.var() == pytest.approx(float(variance), rel=5 * float(np.sqrt(15 / draws)))
    assert abs(products.mean() - 16 * (g @ h)) > 5 * np.sqrt(variance / draws)  # the control: of signs alone, times m
