"""T21: numbers by hand, what a part may do that the whole gain may not, and the figure."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from dsjax.attribution import ComponentGradients, energy, gains, natural_step
from proofs_check.instances import Shape
from proofs_check.theorems.t21_shared_trunk import boundary
from proofs_check.theorems.t21_shared_trunk.numeric import adam_step, sign_part


def gradients(sample, decision) -> ComponentGradients:
    return ComponentGradients(jnp.asarray(sample), jnp.asarray(decision), jnp.zeros(()))


def test_one_parameter_by_hand(x64):
    """Wishes of opposite sign: (3 - 1)^2/(2 + 1) of 9/2 + 1 can be used."""
    G, F_s, F_d = gradients([3.0], [-1.0]), jnp.full((1, 1), 2.0), jnp.full((1, 1), 1.0)
    parts = gains(G, natural_step(G.total, F_s + F_d))
    assert [float(x) for x in parts] == pytest.approx([2.0, -2 / 3], abs=1e-15)
    lost = energy(G.sample, F_s) + energy(G.decision, F_d) - sum(parts)
    u_s, u_d, x = 3 / 2, -1.0, 2 / 3
    assert float(lost) == pytest.approx(2 * (u_s - x) ** 2 + (u_d - x) ** 2, abs=1e-14)


def test_a_part_may_rise_with_filler_while_the_gain_falls(x64):
    G, F, Phi = gradients([2.0, 1.0], [-1.0, 1.0]), jnp.eye(2), jnp.diag(jnp.asarray([1.0, 0.0]))
    parts = [[float(y) for y in gains(G, natural_step(G.total, F + m * Phi))] for m in (0.0, 1.0, 999.0)]
    assert parts[0] == pytest.approx([4.0, 1.0], abs=1e-14)
    assert parts[1] == pytest.approx([3.0, 1.5], abs=1e-14)
    assert parts[2] == pytest.approx([2.002, 1.999], abs=1e-13)


def test_adam_is_a_sign_step_for_large_batches_and_small_under_noise(x64):
    G, square = gradients([2.0, 0.0, 0.5], [-1.0, 0.0, 0.5]), jnp.asarray([5.0, 0.0, 4.0])
    assert adam_step(G, square, 1e12) == pytest.approx([1.0, 0.0, 1.0], abs=1e-10)
    assert adam_step(G, square, 1.0) == pytest.approx([5**-0.5, 0.0, 0.5], abs=1e-15)
    # The first parameter belongs to the sampler's wish until the decision weighs more than twice as much.
    assert [float(sign_part(G, weight)) for weight in (0.1, 1.9, 2.1)] == pytest.approx([-0.5, -0.5, 1.5])


def test_measure_and_draw(measured_and_drawn):
    small = Shape(rounds=2, length=1, vocabulary=2, history="none")
    kinds = {"separate": (small, 4), boundary.FEW: (Shape(2, 1, 2, history="none", shared=2), 4)}
    data, axes = measured_and_drawn(boundary, KINDS=kinds, OTHERWISE=(1,), FINE=(0.0, 1.0, 9.0))
    assert data["worst_error"] < 1e-11
    separate, few = data["kinds"].values()
    assert separate["parts"][1] == pytest.approx([1.0] * 3, abs=1e-12)
    assert separate["enumerated"][0]["parts"] == pytest.approx([x[1] for x in separate["parts"]], abs=1e-12)
    assert few["parts"][1][-1] != pytest.approx(1.0, abs=1e-3)
    assert data["steps"]["natural"] == sorted(data["steps"]["natural"], reverse=True)
    assert len(axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)
