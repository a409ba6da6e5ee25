"""Whether log-probabilities look like natural logarithms of the law that the tokens were drawn from.

Three signs that they are not, none of which needs more than the drawn tokens: two arrays of one file that differ by a
factor; decisions that are drawn more or less often than their probabilities say; and more improbable tokens than any
law can draw. A sign that is absent proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from dsjax.numerics import divide
from dsjax.rollouts.format import Rollouts

LOG2 = float(np.log(2.0))
FEWEST = 20  # tokens, or decisions, below which nothing is said
FAR = 5.0  # standard deviations: one file in two million by chance
ALIKE = 0.9  # correlation from which two arrays are of nearly the same law
NEAR = 0.02  # relative: the base of a logarithm is exact, up to what an update or an engine moves
STRETCHED = 0.15  # relative: more than an update or an engine moves
MOST_CHOICES = 10**6  # of a vocabulary that the file does not tell
EPS = float(np.finfo(float).eps)


def scale(data: Rollouts) -> dict[str, Any]:
    """Numbers on the scale of log-probabilities; `None` where the file cannot tell.

    factor: of two arrays of log-probs of drawn tokens, the ratio of their standard deviations (`spread`) and of their
    means (`mean`), and their `correlation`. Of another base both are its factor; of another temperature
    the norm moves the mean.
    decisions: of two-way ones, how many standard deviations the log-probs of the drawn lie above minus their entropy,
    `base_e` as they are and `base_2` read as log2. improbable: log-probs of sampling tokens up to `logp`, `drawn` of
    them against `at_most` expected under any law of so many choices, where that is most striking.
    """
    arrays = {name: getattr(data, name) for name in ("logp", "old_logp", "sampler_logp")}
    given = {name: x[data.mask] for name, x in arrays.items() if x is not None}
    pairs = combinations(given, 2) if int(data.mask.sum()) >= FEWEST else ()
    drawn_under = next(x for x in (data.sampler_logp, data.old_logp, data.logp) if x is not None)
    return {
        "factor": {f"{b}/{a}": _factor(given[a], given[b]) for a, b in pairs},
        "decisions": _frequencies(drawn_under[data.starts & data.ends]) if data.decision_choices == 2 else None,
        "improbable": _improbable(drawn_under[data.sample_mask], data.vocabulary or MOST_CHOICES),
    }


def _factor(a: np.ndarray, b: np.ndarray) -> dict[str, float] | None:
    """Not a regression, whose slope is less than 1 where both are noisy."""
    spread_a, spread_b = float(a.std()), float(b.std())
    dust = 64 * EPS
    if min(spread_a, spread_b) <= dust * max(1.0, float(abs(a).max()), float(abs(b).max())):
        return None
    product = float(np.mean((a - a.mean()) * (b - b.mean())))
    return {
        "spread": spread_b / spread_a,
        "mean": float(b.mean() / a.mean()),
        "correlation": product / (spread_a * spread_b),
    }


def _frequencies(logp: np.ndarray) -> dict[str, float] | None:
    """The mean of log p over draws from (p, 1 - p) is minus its entropy: the sum of the differences is a martingale."""
    if logp.size < FEWEST:
        return None
    return {"base_e": _deviations(logp), "base_2": _deviations(logp * LOG2)}


def _deviations(logp: np.ndarray) -> float:
    tiny = np.finfo(float).tiny
    p, rest = np.exp(logp), -np.expm1(logp)
    log_rest = np.log(np.maximum(rest, tiny))
    entropy = -p * logp - rest * log_rest
    variance = p * rest * (logp - log_rest) ** 2
    return float(divide(np.sum(logp + entropy), np.sqrt(np.sum(variance))))


def _improbable(logp: np.ndarray, choices: int) -> dict[str, float] | None:
    """At most `choices` symbols have a probability up to t: of n draws n t choices are expected among them at most."""
    n = logp.size
    if n < FEWEST:
        return None
    rising = np.sort(logp)
    with np.errstate(over="ignore"):
        expected = np.minimum(n * np.exp(rising + np.log(choices)), n)
    drawn = np.arange(1, n + 1)
    # Bernstein's bound on a binomial: FAR standard deviations, and as much for few expected.
    excess = drawn - expected - FAR * np.sqrt(expected) - FAR**2 / 3
    worst = int(np.argmax(excess))
    if excess[worst] <= 0:
        return None
    return {"logp": float(rising[worst]), "drawn": int(drawn[worst]), "at_most": float(expected[worst])}


def _near(x: float, base: float) -> bool:
    return abs(x / base - 1) < NEAR


def sentences(found: dict[str, Any]) -> Iterator[str]:
    """What `scale` found amiss."""
    for name, x in found["factor"].items():
        b, a = name.split("/")
        if x is None or x["correlation"] < ALIKE:
            continue
        log2 = [one for one, base in ((b, 1 / LOG2), (a, LOG2)) if _near(x["spread"], base) and _near(x["mean"], base)]
        if log2:
            other = a if log2 == [b] else b
            yield f"{log2[0]} looks like log2, not nats: {1 / LOG2:.3f} times {other}."
        elif abs(np.log(x["spread"])) > np.log1p(STRETCHED):
            temperature = f"as at temperature {1 / x['spread']:.3g} of it"
            yield f"{b} spreads {x['spread']:.3g} times as far as {a}, {temperature}: are both of the law that drew?"
    x = found["decisions"]
    if x is not None and abs(x["base_e"]) > FAR:
        way = "less" if x["base_e"] < 0 else "more"
        words = f"Drawn decisions are {way} probable than their own probabilities allow ({x['base_e']:+.1f} sigma): "
        if abs(x["base_2"]) < FAR:
            yield words + "the log-probs look like log2, not nats."
        else:
            yield words + "log-probs of another temperature, base or policy, or not renormalised to two choices."
    x = found["improbable"]
    if x is not None:
        yield (
            f"{x['drawn']} sampling tokens have a log-prob of at most {x['logp']:.3g}, where any law draws "
            f"{x['at_most']:.2g} in the mean: log2 for nats, or drawn at a higher temperature or by another policy."
        )
