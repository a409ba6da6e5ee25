"""The exact scope, division where there is something to divide by, and options that a compiler may not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsjax import numerics
from dsjax.numerics import compile_quickly, divide, exact


def test_exact_scope_is_float64_and_leaves_no_trace():
    with exact():
        assert jnp.ones(()).dtype == jnp.float64
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize("xp", [np, jnp])
def test_division_is_by_positive_numbers_only(xp):
    part, whole = xp.asarray([1.0, 2.0, 0.0, 3.0]), xp.asarray([2.0, 0.0, 0.0, -1.0])
    assert divide(part, whole).tolist() == [0.5, 0.0, 0.0, 0.0]
    assert np.isnan(divide(part, whole, np.nan)).tolist() == [False, True, True, True]


def test_division_has_no_nan_in_its_gradient():
    gradient = jax.grad(lambda w: divide(jnp.ones(2), w).sum())(jnp.asarray([0.0, 2.0]))
    assert gradient.tolist() == [0.0, -0.25]


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(numerics, "QUICK", {**numerics.QUICK, "xla_no_such_option": True})
    numerics.quick_options.cache_clear()
    try:
        known = numerics.quick_options()
        assert "xla_no_such_option" not in known
        assert "xla_backend_optimization_level" in known
        assert compile_quickly(lambda x: 2 * x, jnp.ones(3))(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]
    finally:
        numerics.quick_options.cache_clear()
