"""What an objective returns, checked, and the coefficients that follow from it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.registry import Objective, innermost, is_own
from dsjax.own import guarded
from dsjax.trajectories import Trajectories


def sum_and_count(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """What the objective returns: two numbers, as arrays of one dtype.

    Raises:
      InputError: if it returns anything else, or if an objective that is not of this library raises; names it.
    """
    name = full_name(objective)
    own, (B, S) = is_own(objective), logp_BxS.shape
    allowed = f"a loss of (logp_BxS, traj) that runs on {B} rows of {S} token slots, traced by JAX"
    with guarded("objective", name, allowed) if own else nullcontext():
        returned: Any = objective(logp_BxS, traj)
    several = isinstance(returned, tuple)
    # A Python number has no shape, and nor has anything that is no number.
    shapes = [
        getattr(x, "shape", () if isinstance(x, int | float) else type(x).__name__)
        for x in (returned if several else [returned])
    ]
    received = f"{len(shapes)} value{'s' * several} of shape{'s' * several} {', '.join(map(str, shapes))}"
    allowed = "two numbers, (sum, count), each of shape (): for a mean, what it adds up and what it divides by"
    require(several and shapes == [(), ()], f"what objective {name} returns", received, allowed)
    kinds = [str(getattr(x, "dtype", type(x).__name__)) for x in returned]
    real = all(
        isinstance(x, int | float) or jnp.isdtype(x.dtype, ("real floating", "integral", "bool")) for x in returned
    )
    require(real, f"what objective {name} returns", ", ".join(kinds), "two real numbers, (sum, count)")
    total, count = (jnp.asarray(x, logp_BxS.dtype) for x in returned)
    if own:  # a count that is negative or NaN must not read as 0, nothing to learn from
        total = total * jnp.where(count >= 0, 1.0, jnp.nan).astype(total.dtype)
        count = jnp.where(count >= 0, count, jnp.ones_like(count))
    return total, count


def mean_of(sum_count: SumCount) -> jax.Array:
    """sum / count, the count as data; 0 where count = 0."""
    total, count = sum_count
    count = jax.lax.stop_gradient(count)
    return divide(total, count)


def loss_of(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """sum / count of the objective; 0 where there is nothing to learn from (count = 0)."""
    return mean_of(sum_and_count(objective, logp_BxS, traj))


def coefficients(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """c_BxS: ascent coefficient of every token, -d loss / d logp; 0 outside of the masks.

    On an exact law it includes the trajectory's probability: c_it = weight_i x (coefficient of objectives.md).

    Args:
      objective: `(logp_BxS, traj) -> (sum, count)`.
      logp_BxS: log-probabilities of the tokens, nats.
      traj: the trajectories; B of S token slots.
    """
    return loss_and_coefficients(objective, logp_BxS, traj)[1]


def loss_and_coefficients(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> tuple[jax.Array, jax.Array]:
    """(`loss_of`, `coefficients`) of an objective, which is asked once."""
    loss, gradient_BxS = jax.value_and_grad(lambda logp: loss_of(objective, logp, traj))(logp_BxS)
    return loss, jnp.where(traj.mask, -gradient_BxS, 0.0)


def require_finite(name: str, loss: Any, c_BxS: Any) -> None:
    """Raise `InputError` with the first coefficient, or the loss, that is not finite."""
    c_BxS = np.asarray(c_BxS)
    bad = ~np.isfinite(c_BxS)
    place = f"{c_BxS[bad][0]} at {np.argwhere(bad)[0].tolist()}" if bad.any() else None
    require(not bad.any() and bool(np.isfinite(loss)), f"coefficient of {name}", place or float(loss), "finite numbers")


def full_name(objective: Any) -> str:
    """`module:function` of a user's own objective, the function's name of others."""
    function = innermost(objective)
    name = getattr(function, "__qualname__", repr(function))
    return f"{function.__module__}:{name}" if is_own(objective) and hasattr(function, "__module__") else name
