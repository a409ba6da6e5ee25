"""Objectives on a law: a row has a probability there, and a loss made for a batch may take rows as equal.

Every objective of this library respects weights: a row split into two of the same content changes nothing. A loss
pasted from a trainer adds rows up as they come. Where it is a mean over rows or over tokens, its coefficients on equal
rows tell those on the law. Where it is neither, as with a group's statistics over equal rows, no coefficient tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import InputError
from dsjax.numerics import compile_quickly
from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.registry import Objective
from dsjax.objectives.returns import coefficients, full_name, is_own, loss_and_coefficients, require_finite
from dsjax.trajectories import Trajectories, is_concrete


def _per_row(mask_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    return jnp.sum(mask_BxS, axis=-1).astype(traj.weight.dtype)


# h: what a loss divides by, row by row. "nothing": a sum, whatever the number of rows.
DIVISORS: dict[str, Callable[[Trajectories], jax.Array]] = {
    "rows": lambda traj: jnp.ones_like(traj.weight),
    "tokens": lambda traj: _per_row(traj.mask, traj),
    "sampling tokens": lambda traj: _per_row(traj.sample_mask, traj),
    "decision tokens": lambda traj: _per_row(traj.decision_mask, traj),
    "nothing": lambda traj: jnp.full_like(traj.weight, 1 / traj.weight.shape[0]),
}


def on_law(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> Objective:
    """The objective in a form that respects the weights of a law.

    Objectives of this library do. One of your own is asked about four batches at log-probs that are not those of the
    old policy. Each has all rows, one of which is split into many of the same content and unequal weights: the longest,
    the shortest, that of the highest and of the lowest return, so that any statistic of the batch moves.

    - If each part gets its part of the coefficient, and other rows the same in all batches, it respects weights.
    - If each part gets the whole coefficient, up to what the loss divides by, it takes rows as equal and is a mean
      over them or over their tokens: `weighted` then. On equal weights both are the same.
    - Else it is refused.

    Args:
      objective: `(logp_BxS, traj) -> (sum, count)`.
      logp_BxS: log-probs, nats; of no influence on the answer for any common loss.
      traj: the law, or samples. With equal weights nothing can go wrong; in a trace nothing can be compared.

    Raises:
      InputError: naming the objective, if it is asked and does not run, is not finite, or fits no law.
    """
    if not is_own(objective) or not is_concrete(logp_BxS, *jax.tree.leaves(traj)):
        return objective
    if not traj.exact and bool((traj.weight == traj.weight[0]).all()):
        return objective
    name, rows = full_name(objective), traj.weight.shape[0]
    splits = _splits(traj)
    other_logp, law = jax.device_get((1.1 * logp_BxS, traj))
    batches = [_split(other_logp, law, source, part) for source, part in splits]

    def ask(logp: jax.Array, traj: Trajectories) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
        divided_by = {divisor: jnp.sum(h(traj)) for divisor, h in DIVISORS.items()}
        return loss_and_coefficients(objective, logp, traj), divided_by

    asked = compile_quickly(ask, *batches[0])
    found, divided_by = [], []
    for batch in batches:
        (loss, c), totals = jax.device_get(asked(*batch))
        require_finite(name, loss, c[:rows])
        found.append(c)
        divided_by.append(totals)
    largest = max(float(np.abs(c).max()) for c in found)

    def off(scales: Sequence[np.ndarray | float]) -> float:
        """Largest distance of the scaled coefficients of a row, over its copies and all batches, relative."""
        scaled = [c * scale for c, scale in zip(found, scales, strict=True)]
        one = scaled[0][:rows]
        distances = [np.abs(c - one[source]).max() for c, (source, _) in zip(scaled, splits, strict=True)]
        return float(max(distances)) / max(float(np.abs(one).max()), np.finfo(one.dtype).tiny)

    # A loss of another kind is off by the difference of parts, some 1/B at least; rounding stays far below.
    tolerance = float(np.sqrt(np.finfo(found[0].dtype).eps))
    far = off([1 / part[:, None] for _, part in splits])
    if largest == 0 or far <= tolerance:
        return objective
    for divisor in DIVISORS:
        if off([float(totals[divisor]) for totals in divided_by]) <= tolerance:
            return weighted(objective, divisor)
    raise InputError(
        f"objective {name}",
        f"a loss whose coefficients move, by {far:.2g} of the largest, where a row is split into several like it",
        "a loss that weighs rows by traj.weight, or a sum over rows divided by rows or tokens. Here rows are the "
        "trajectories of a law, each with its probability: statistics of a batch or group must be taken under "
        "traj.weight, as dsjax.objectives.advantages.advantage(name, traj.reward, traj) does. On sampled rows, as in "
        "training and in files of rollouts, they are equal and the loss is right as it is",
    )


def weighted(objective: Objective, divisor: str) -> Objective:
    """A loss of equal rows as one of weights: `c_it -> w_i c_it sum_j h_j / sum_j w_j h_j`.

    Args:
      objective: with coefficients `f_it / sum_j h_j` on equal rows, f_it of row i alone.
      divisor: h, of `DIVISORS`.
    """

    def on_weights(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        c_BxS = jax.lax.stop_gradient(coefficients(objective, logp_BxS, traj))
        h_B = DIVISORS[divisor](traj)
        total = -jnp.sum(h_B) * jnp.sum(traj.weight[:, None] * c_BxS * jnp.where(traj.mask, logp_BxS, 0.0))
        return total, jnp.sum(traj.weight * h_B)

    on_weights.__qualname__ = full_name(objective)
    return on_weights


def _splits(traj: Trajectories) -> list[tuple[np.ndarray, np.ndarray]]:
    """(i[N] row, f[N] part of its weight) of each batch: all rows, then the copies of one of them."""
    tokens_B, reward_B = np.asarray(traj.mask).sum(-1), np.asarray(traj.reward)
    rows = len(reward_B)
    copies = -(-rows // 3)
    parts = np.arange(1.0, copies + 2) / (0.5 * (copies + 1) * (copies + 2))
    out = []
    for row in (tokens_B.argmax(), tokens_B.argmin(), reward_B.argmax(), reward_B.argmin()):
        part = np.ones(rows + copies)
        part[row], part[rows:] = parts[0], parts[1:]
        out.append((np.concatenate([np.arange(rows), np.full(copies, row)]), part))
    return out


def _split(
    logp_BxS: np.ndarray, traj: Trajectories, source: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, Trajectories]:
    out = jax.tree.map(lambda x: x[source], traj)
    return logp_BxS[source], out.replace(weight=out.weight * part.astype(out.weight.dtype))
