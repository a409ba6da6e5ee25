"""T17, symbolically: what imitation and reward make of a mixture of chains and guesses, for every s."""

from __future__ import annotations

from collections.abc import Callable

from sympy import ZZ
from sympy.polys.fields import field

from dsjax.evaluation import mixture
from proofs_check.symbolic.proof import Element, Proofs

PROOFS = Proofs("T17")


def _derivative(f: Callable[[Element], Element], p: Element) -> Element:
    return f(p).diff(p)


@PROOFS.identity(
    "odds(p') = odds(p)/s; after k rounds odds(p_k) = odds(p)/s^k",
    "p, s, and z for s^k",
    shape="every k",
    control="successes said to leave p",
    still=True,
)
def successes(*, still: bool = False) -> list[Element]:
    """One round of imitating successes, and the step from k to k + 1."""
    _, p, s, z = field("p s z", ZZ)

    def after(x: Element) -> Element:
        return x if still else mixture.after_success(x, s)

    def at(z: Element) -> Element:
        """p_k with odds p/((1 - p) z)."""
        return p / (p + (1 - p) * z)

    return [after(p) / (1 - after(p)) - p / ((1 - p) * s), after(at(z)) - at(z * s)]


@PROOFS.identity(
    "the mixture's own law and its successes are where cross-entropy is least: slope 0 at p and at p'",
    "p, s",
    shape="two laws of chains",
    control="each least at the other's",
    swapped=True,
)
def least(*, swapped: bool = False) -> list[Element]:
    """Slope of -w log p - (1 - w) log(1 - p) times p (1 - p), with the part w of chains in the data."""
    _, p, s = field("p s", ZZ)
    own, kept = p, p / (p + (1 - p) * s)
    at = (kept, own) if swapped else (own, mixture.after_success(p, s))
    return [-w * (1 - x) + (1 - w) * x for w, x in zip((own, kept), at, strict=True)]


@PROOFS.identity(
    "dJ/dlogit(p) = p (1-p)(1-s); P(STOP | prefix) = P(guess | prefix); it is 1/2 at p = s/(1+s)",
    "p, s",
    shape="the mixture",
    control="P(STOP | prefix) said to be 1 - p",
    naive=True,
)
def stopping(*, naive: bool = False) -> list[Element]:
    """Reward's slope from the accuracy; Bayes' rule at the prefix; the greedy threshold."""
    _, p, s = field("p s", ZZ)
    chain_and_prefix, guess_and_prefix = p, (1 - p) * s
    bayes = guess_and_prefix / (chain_and_prefix + guess_and_prefix)
    stop = (lambda p: 1 - p) if naive else (lambda p: mixture.stop_at_prefix(p, s))
    slope = _derivative(lambda p: mixture.accuracy(p, s), p) * p * (1 - p)
    return [slope - mixture.reward_gradient(p, s), stop(p) - bayes, 2 * stop(mixture.greedy_threshold(s)) - 1]
