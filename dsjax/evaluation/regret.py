"""What a decider that imitates correctness labels leaves to reward: a threshold (docs/theory.md, T16).

At a visit: q = P(right | what the decider sees), V = the value of going on, cost taken off. Stopping is worth q.
Functions are elementwise and take NumPy or JAX arrays alike.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.evaluation.deciders import BINS, bins_of
from dsjax.numerics import divide
from dsjax.statistics import Statistic

Array = Any


def of_imitation(q: Array, V: Array) -> Array:
    """max(q, V) - (q^2 + (1 - q) V): q (V - q) if q < V, else (1 - q)(q - V); per visit, in units of return."""
    xp = q.__array_namespace__()
    return xp.where(q < V, q * (V - q), (1 - q) * (q - V))


def of_greedy(q: Array, V: Array) -> Array:
    """|q - V| where STOP iff q > 1/2 is not STOP iff q >= V, else 0; per visit, in units of return."""
    xp = q.__array_namespace__()
    return xp.where((q > 0.5) == (q >= V), 0.0, abs(q - V))


def from_table(q: Array, V: Array, visits: Array) -> Array:
    """Regret of imitation per episode: sum over the bins of a reliability table of visits x `of_imitation`.

    Args:
      q: f[.., N] fraction right by bin of what the decider sees.
      V: f[.., N] value of going on from there.
      visits: f[.., N] visits of the bin per episode, by the imitator.
    """
    return (visits * of_imitation(q, V)).sum(-1)


def keeps(stop_nxG: Array, right_nxG: Array, rounds: int, cost: float = 0.0, bins: int = BINS) -> Array:
    """bool[n, G]: STOP iff q >= V, the label of value that closes the gap of imitation; JAX arrays.

    q: fraction right of all answers in the bin of P(STOP). V: what going on brings the problems of those that come to
    the bin, less the cost, if every later round keeps by the same rule: from the other answers of each problem.

    Args:
      stop_nxG: P(STOP) of G >= 2 answers to each of n problems.
      right_nxG: 1 where right, else 0.
      rounds: T >= 2.
      cost: of going on.
      bins: of P(STOP), equally wide.
    """
    index = jnp.minimum((stop_nxG * bins).astype(jnp.int32), bins - 1)
    into = jax.nn.one_hot(index, bins, dtype=right_nxG.dtype)
    count = into.sum((0, 1))

    def of_bin(x_nxG: Array) -> Array:
        return divide((into * x_nxG[..., None]).sum((0, 1)), count)[index]

    def of_others(x_nxG: Array) -> Array:
        return (x_nxG.sum(1, keepdims=True) - x_nxG) / (x_nxG.shape[1] - 1) - cost

    q, going = of_bin(right_nxG), of_others(right_nxG)
    for _ in range(rounds - 2):
        going = of_others(jnp.where(q >= of_bin(going), right_nxG, going))
    return q >= of_bin(going)


def of_samples(stop_NxT: np.ndarray, right_NxT: np.ndarray, bins: int = BINS) -> Statistic:
    """What deciding better on the same knowledge could earn over imitation, in accuracy: `from_table` by round and bin.

    The decider sees the round and the bin of P(STOP), as in `deciders.reliability`. The imitator goes through the
    rounds: q is the fraction right among those that come to a bin, and that part of them it keeps. V is what going on
    brings them if every later round keeps iff q >= V, from their own later samples: problems differ, and those that
    come to a low bin are harder. So the sum is exactly what that decider gets more than the imitator on these samples,
    with either history, as a round is only ever seen after RESAMPLE. It is a plug-in estimate: the samples that choose
    between q and V also value the choice, which overstates it by less than their noise where q and V are close.

    Args:
      stop_NxT: P(STOP) of N problems and T rounds.
      right_NxT: verdicts.
      bins: of P(STOP), equally wide.
    """
    right, index = right_NxT.astype(float), bins_of(stop_NxT, bins)[:, :-1].T
    into = np.eye(bins)[index]  # f[T - 1, N, bins]

    def statistic(weights_RxN: np.ndarray) -> np.ndarray:
        alive, q, visits = [weights_RxN], [], []
        for t, bin_N in enumerate(index):
            visits.append(alive[t] @ into[t])
            q.append(divide(alive[t] @ (right[:, t, None] * into[t]), visits[t]))
            alive.append(alive[t] * (1.0 - q[t][:, bin_N]))
        V, going = [], np.broadcast_to(right[:, -1], weights_RxN.shape)
        for t in reversed(range(len(index))):
            V.insert(0, divide((alive[t] * going) @ into[t], visits[t]))
            going = np.where((q[t] >= V[0])[:, index[t]], right[:, t], going)
        if not V:  # one round: nothing to decide
            return np.zeros(len(weights_RxN))
        q_all, V_all, visits_all = (np.concatenate(x, axis=1) for x in (q, V, visits))
        return from_table(q_all, V_all, visits_all / weights_RxN.sum(1, keepdims=True))

    return statistic
