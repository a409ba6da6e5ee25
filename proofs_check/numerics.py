"""Distances between what the library computed and what a statement says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

EPS = 2.0**-52  # float64

# Sums of at most ~10^3 products of probabilities, returns and scores of order one, each with a few roundings of its
# own (exp, log_softmax): 10^3 x 10 x EPS = 2e-12 in the worst case, EPS x sqrt(10^3) typically.
SUM = 1e4 * EPS

# Energies go through an eigendecomposition of a Fisher matrix scaled to unit diagonal. Backward error P x EPS x |F|
# with |F| <= P; a softmax block so scaled has its least non-zero eigenvalue >= ~1/V, and the energy divides by it
# twice (value and eigenvector): V^2 P^2 EPS = 25 x 170^2 x 2.2e-16 = 2e-10.
ENERGY = 1e6 * EPS


def gap(a: Any, b: Any) -> jax.Array:
    """Largest |a - b| over all entries of two pytrees, relative to the largest |b| where that exceeds 1."""
    x, _ = ravel_pytree(a)
    y, _ = ravel_pytree(b)
    return jnp.max(jnp.abs(x - y)) / jnp.maximum(1.0, jnp.max(jnp.abs(y)))


def shortfall(margin: jax.Array) -> jax.Array:
    """Error of the inequality margin >= 0: how far it is broken; NaN stays NaN."""
    return jnp.maximum(-margin, 0.0)
