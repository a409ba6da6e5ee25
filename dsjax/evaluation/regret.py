"""What a decider that imitates correctness labels leaves to reward: a threshold (docs/theory.md, T16).

At a visit: q = P(right | what the decider sees), V = the value of going on, cost taken off. Stopping is worth q.
Functions are elementwise and take NumPy or JAX arrays alike.
"""

from __future__ import annotations

from typing import Any

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
      q: f[N] fraction right by bin of what the decider sees.
      V: f[N] value of going on from there.
      visits: f[N] visits of the bin per episode, by the imitator.
    """
    return (visits * of_imitation(q, V)).sum()
