"""Chains and guesses: what imitation and reward make of a policy that takes the chain with probability p (T17).

A chain of steps is right for sure; a guess is right with probability s, and equal to the chain's first answer with
the same. All functions take numbers, arrays and polynomials alike.
"""

from __future__ import annotations

from typing import Any

Array = Any


def accuracy(p: Array, s: Array) -> Array:
    """P(right) = p + (1 - p) s: where continued imitation of the mixture stays for ever."""
    return p + (1 - p) * s


def after_success(p: Array, s: Array) -> Array:
    """p' = p/(p + (1 - p) s), after one round of imitating own successes: the odds of the chain times 1/s."""
    return p / accuracy(p, s)


def stop_at_prefix(p: Array, s: Array) -> Array:
    """P(STOP | the first answer is the chain's) = (1 - p) s/(p + (1 - p) s) of a calibrated decider."""
    return (1 - p) * s / accuracy(p, s)


def greedy_threshold(s: Array) -> Array:
    """The p above which a decider that takes the likelier choice goes on at the prefix: s/(1 + s)."""
    return s / (1 + s)


def reward_gradient(p: Array, s: Array) -> Array:
    """DJ/dlogit(p) = p (1 - p)(1 - s): above 0 until p is 1."""
    return p * (1 - p) * (1 - s)
