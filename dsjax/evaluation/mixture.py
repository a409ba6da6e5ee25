"""Chains and guesses: what imitation and reward make of a policy that takes the chain with probability p (T17).

A chain of steps is right for sure; a guess is right with probability s, and equal to the chain's first answer with
the same. All functions take numbers, arrays and polynomials alike.
"""

from __future__ import annotations

from typing import Any

from dsjax.evaluation.accounting import Parts, shapley

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


def chain_share(accuracy: Array, s: Array) -> Array:
    """P of a mixture with this accuracy: (accuracy - s)/(1 - s)."""
    return (accuracy - s) / (1 - s)


def reward_parts(p: Array, s: Array) -> Parts:
    """What sampler and decider bring to the gain (1 - p)(1 - s) of reward, which ends at the chain alone.

    Shapley parts of swapping one component at a time. The chain's sampler begins with the prefix, where the mixture's
    decider goes on with 1 - P(STOP | prefix); the mixture's begins with it in p + (1 - p) s of all cases, where the
    chain's decider goes on for sure. A first answer off the chain is right with probability s, whoever decides: an
    assumption about what no demonstration shows. Networks that are made to go on there often find back to the chain,
    and then the decider's part is the larger one.
    """

    def value(sampler: bool, decider: bool) -> Array:
        """Accuracy; True is the chain's component."""
        begins = 1 if sampler else accuracy(p, s)
        goes_on = 1 if decider else 1 - stop_at_prefix(p, s)
        return begins * (goes_on + (1 - goes_on) * s) + (1 - begins) * s

    return shapley(value, (False, False), (True, True))
