"""Attribution of a run of any framework, from log-probs, masks and rewards: what they can tell and what they cannot.

With `c_it` the ascent coefficient of token t of trajectory i, `w_i` its weight (1/B) and `k_it = c_it/w_i`:

    (i)   per factor   mean over answers of |mean of k over the answer's tokens|, and mean of |k| over decisions
    (ii)  per token    sum |c| / sum w over the tokens of a component
    (iii) block share  sum |c| over decisions / sum |c| over all tokens
    (iv)  the expected gradient: not a function of log-probs; only with gradients in the file

Shares of (i) and (ii) are `decision / (sampling + decision)`: 1/2 means even. In logit space, where every prefix has a
softmax of its own, one trajectory's gradient has squared length `sum_t k_t^2 |score_t|^2`, since its tokens stand in
different prefixes; `|score|^2 = 2 (1 - p)^2` for a two-way softmax, with bounds for a V-way one (`square_bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from dsjax.errors import InputError, require
from dsjax.numerics import divide, exact
from dsjax.objectives import Objective, resolve
from dsjax.rollouts.format import Rollouts, check, square_bounds
from dsjax.rollouts.words import availability, reading
from dsjax.statistics import RESAMPLES, Bootstrap, ratio_of_sums
from dsjax.trajectories import DECISION_NAMES

Estimate = dict[str, float | None]
Statistic = Callable[[np.ndarray], np.ndarray]

# Coefficients are a handful of float64 operations on the same advantage: equal up to some tens of eps.
EQUAL = 1e-12


@dataclass(frozen=True)
class Diagnosis:
    """What the rollouts tell; `to_json` has every number, docs/attribute.md explains them."""

    objective: str
    options: dict[str, Any]
    loss: float
    coefficients: np.ndarray  # f[B, S] c_it, ascent direction, 0 outside of the masks
    rollouts: dict[str, Any]  # counts of trajectories, groups, tokens, answers and decisions
    conventions: dict[str, dict[str, Estimate]]  # (i), (ii), (iii) by name
    balance: dict[str, Any]  # is there one coefficient per trajectory
    decisions: dict[str, dict[str, Any]]  # by type, STOP and RESAMPLE
    outcome: dict[str, Any]  # do the signs of the decision coefficients agree with the outcome
    logit_space: dict[str, Any]  # second moments: exact values or bounds
    gradients: dict[str, Any] | None  # with gradients in the file only
    availability: list[dict[str, str]]  # rows {"quantity", "status", "why"}
    reading: str  # one paragraph

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the coefficients of single tokens."""
        names = [name for name in self.__dataclass_fields__ if name != "coefficients"]
        return {"format": 1, **{name: getattr(self, name) for name in names}}


def from_rollouts(
    objective: str | Objective = "reinforce",
    options: Mapping[str, Any] | None = None,
    *,
    success: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **arrays: Any,
) -> Diagnosis:
    """The attribution quantities that log-probs, masks and rewards of any framework determine.

    The objective need not be the one that the run trains with: any objective can be asked about the same rollouts.

    Args:
      objective: a name of the registry, `module:function`, or a function `(logp_BxS, traj) -> (sum, count)`.
      options: options of a named objective.
      success: returns from here on count as success; midway between the smallest and the largest by default.
      resamples: of the bootstrap, over groups if given, else over trajectories.
      seed: of the bootstrap.
      **arrays: `logp`, `sample_mask`, `decision_mask`, `reward` and any of `rollouts_file.OPTIONAL`.

    Raises:
      InputError: for arrays that do not fit together, or that this objective needs and did not get.
    """
    require(resamples >= 1, "resamples", resamples, "at least 1")
    require(success is None or bool(np.isfinite(success)), "success", success, "a finite return")
    options = dict(options or {})
    if isinstance(objective, str):
        name, function = objective, resolve(objective, options)
    else:
        require(not options, "options", options, "none with a function; bind them with functools.partial")
        name, function = getattr(objective, "__name__", repr(objective)), objective
    data = check(arrays)
    loss, c_BxS = _evaluate(function, name, data)
    return _diagnose(name, options, data, loss, c_BxS, success, _Bootstrap(data, resamples, seed))


def _evaluate(function: Objective, name: str, data: Rollouts) -> tuple[float, np.ndarray]:
    """Loss and c_BxS in float64; not jitted, so that the library's own checks see the values."""
    from dsjax.attribution import coefficients, loss_of  # which in turn offers `from_rollouts`

    with exact():
        logp, traj = jnp.asarray(data.logp), data.trajectories()
        try:
            loss, c_BxS = float(loss_of(function, logp, traj)), np.asarray(coefficients(function, logp, traj))
        except InputError as error:
            if error.field in ("old_logp", "ref_logp", "values") and error.received is None:
                raise InputError(error.field, "no such array", f"the array {error.field}: {name} needs it") from error
            if error.field == "group size":
                allowed = f"{error.allowed}: the array group must put 2 or more trajectories in each group for {name}"
                raise InputError("group", f"a group of {error.received}", allowed) from error
            raise
    bad = ~np.isfinite(c_BxS)
    place = f"{c_BxS[bad][0]} at {np.argwhere(bad)[0].tolist()}" if bad.any() else None
    require(not bad.any() and bool(np.isfinite(loss)), f"coefficient of {name}", place or loss, "finite numbers")
    return loss, c_BxS


class _Bootstrap:
    """Point values and intervals of ratios of sums over trajectories; whole groups are drawn."""

    def __init__(self, data: Rollouts, resamples: int, seed: int):
        self.cluster, self.number = data.group, data.num_groups
        self.resamples, self.seed = resamples, seed

    def of(self, numerator_B: np.ndarray, denominator_B: np.ndarray) -> Statistic:
        """Ratio of two sums over trajectories, as a function of group weights."""
        return ratio_of_sums(*(np.bincount(self.cluster, x, self.number) for x in (numerator_B, denominator_B)))

    def estimates(self, statistics: Mapping[str, Statistic], number: int | None = None) -> dict[str, Estimate]:
        """{name: {"value", "low", "high"}}, all from the same resamples; no interval for a single unit."""
        number = self.number if number is None else number
        found = Bootstrap(number, self.resamples if number > 1 else 0, self.seed).estimates(statistics)
        return {name: e.to_json() for name, e in found.items()}


def _share(part: Statistic, other: Statistic) -> Statistic:
    """part / (part + other); NaN where neither is positive."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        a, b = part(weights), other(weights)
        return divide(a, a + b, np.nan)

    return statistic


def _diagnose(
    name: str,
    options: dict[str, Any],
    data: Rollouts,
    loss: float,
    c_BxS: np.ndarray,
    success: float | None,
    bootstrap: _Bootstrap,
) -> Diagnosis:
    w_Bx1 = data.weight[:, None]
    k_BxS = divide(c_BxS, w_Bx1)
    parts: dict[str, Any] = {
        "rollouts": _counts(data),
        "conventions": _conventions(data, c_BxS, k_BxS, bootstrap),
        "balance": _balance(data, k_BxS),
        "decisions": _decisions(data, k_BxS),
        "outcome": _outcome(data, k_BxS, success, bootstrap),
        "logit_space": _logit_space(data, k_BxS, bootstrap),
        "gradients": _gradients(data, bootstrap),
    }
    return Diagnosis(
        objective=name,
        options=options,
        loss=loss,
        coefficients=c_BxS,
        availability=availability(data, parts),
        reading=reading(name, parts),
        **parts,
    )


def _mean(x: np.ndarray, weight: np.ndarray) -> float | None:
    """Weighted mean; None over nothing."""
    total = float(weight.sum())
    return float((weight * x).sum()) / total if total > 0 else None


def _answers(data: Rollouts, x_BxS: np.ndarray) -> np.ndarray:
    """f[B, S]: the sum of x over the sampling tokens of each round; column = round."""
    B, S = x_BxS.shape
    place = np.arange(B)[:, None] * S + data.round
    return np.bincount(place.ravel(), np.where(data.sample_mask, x_BxS, 0.0).ravel(), B * S).reshape(B, S)


def _counts(data: Rollouts) -> dict[str, Any]:
    length_BxS = _answers(data, np.ones_like(data.logp)).astype(int)
    lengths, decisions = length_BxS[length_BxS > 0], data.decision_mask.sum(-1)
    S = data.logp.shape[1]
    last = S - 1 - np.argmax(data.mask[:, ::-1], axis=1)  # the last drawn token of a row
    rows, drawn = np.arange(len(last)), data.mask.any(-1)
    ends = data.decision_mask[rows, last] & drawn
    # Not a quantile between two observed lengths: an answer has a whole number of tokens.
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf") if lengths.size else []
    return {
        "trajectories": len(data.reward),
        "groups": data.num_groups if "group" in data.given else None,
        "sampling_tokens": int(data.sample_mask.sum()),
        "decision_tokens": int(data.decision_mask.sum()),
        "answers": int(lengths.size),
        "answer_length_mean": float(lengths.mean()) if lengths.size else None,
        "answer_length_quantiles": [int(q) for q in quantiles],
        "decisions_per_trajectory": float(decisions.mean()),
        "ended_by_stop": int((ends & (data.decision[rows, last] == 0)).sum()),
        "ended_by_resample": int((ends & (data.decision[rows, last] == 1)).sum()),
        "ended_without_decision": int((~ends).sum()),
        "decision_types": "given" if "decision" in data.given else "by position",
        "mean_reward": _mean(data.reward, data.weight),
        "reward_variance": float(np.sum(data.weight * (data.reward - np.sum(data.weight * data.reward)) ** 2)),
        "arrays": list(data.given),
    }


def _conventions(
    data: Rollouts, c_BxS: np.ndarray, k_BxS: np.ndarray, bootstrap: _Bootstrap
) -> dict[str, dict[str, Estimate]]:
    def total(x_BxS: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.sum(np.where(mask, x_BxS, 0.0), -1)

    one_BxS = np.broadcast_to(data.weight[:, None], c_BxS.shape)
    length_BxS = _answers(data, np.ones_like(c_BxS))
    mean_BxS = divide(_answers(data, k_BxS), length_BxS)
    decision, sample = data.decision_mask, data.sample_mask
    is_answer = length_BxS > 0
    numerators = {  # (of the sampler, of the decider)
        "factor": (data.weight * total(abs(mean_BxS), is_answer), total(abs(c_BxS), decision)),
        "factor, signed": (data.weight * total(mean_BxS, is_answer), total(c_BxS, decision)),
        "token": (total(abs(c_BxS), sample), total(abs(c_BxS), decision)),
        "token, signed": (total(c_BxS, sample), total(c_BxS, decision)),
    }
    counts = {
        "factor": (total(one_BxS, is_answer), total(one_BxS, decision)),
        "token": (total(one_BxS, sample), total(one_BxS, decision)),
    }
    statistics: dict[str, Statistic] = {}
    for unit, (n_s, n_d) in counts.items():
        a, b = (bootstrap.of(x, n) for x, n in zip(numerators[unit], (n_s, n_d), strict=True))
        signed = numerators[f"{unit}, signed"]
        statistics |= {f"{unit}|sample": a, f"{unit}|decision": b, f"{unit}|share": _share(b, a)}
        statistics |= {
            f"{unit}|signed_sample": bootstrap.of(signed[0], n_s),
            f"{unit}|signed_decision": bootstrap.of(signed[1], n_d),
        }
    (abs_s, abs_d), (net_s, net_d) = numerators["token"], numerators["token, signed"]
    statistics |= {  # per trajectory; the signed share is of the net push, which may cancel: see `one_sided`
        "block|sample": bootstrap.of(abs_s, data.weight),
        "block|decision": bootstrap.of(abs_d, data.weight),
        "block|share": bootstrap.of(abs_d, abs_s + abs_d),
        "block|signed_sample": bootstrap.of(net_s, data.weight),
        "block|signed_decision": bootstrap.of(net_d, data.weight),
        "block|one_sided_sample": bootstrap.of(net_s, abs_s),
        "block|one_sided_decision": bootstrap.of(net_d, abs_d),
    }
    out: dict[str, dict[str, Estimate]] = {"factor": {}, "token": {}, "block": {}}
    for key, e in bootstrap.estimates(statistics).items():
        unit, column = key.split("|")
        out[unit][column] = e
    return out


def _balance(data: Rollouts, k_BxS: np.ndarray) -> dict[str, Any]:
    """Whether all tokens of a trajectory carry the same coefficient (T2); the largest relative spread inside of one."""
    high = np.max(np.where(data.mask, k_BxS, -np.inf), axis=-1, initial=-np.inf)
    low = np.min(np.where(data.mask, k_BxS, np.inf), axis=-1, initial=np.inf)
    size = np.max(abs(k_BxS), axis=-1)
    pushed = (size > 0) & (data.weight > 0)
    spread = (high[pushed] - low[pushed]) / size[pushed]
    largest = float(spread.max()) if spread.size else None
    return {
        "pushed_trajectories": int(pushed.sum()),
        "largest_spread": largest,
        "one_coefficient_per_trajectory": None if largest is None else largest <= EQUAL,
    }


def _decisions(data: Rollouts, k_BxS: np.ndarray) -> dict[str, dict[str, Any]]:
    """By type: how many, their coefficients, and the push on the logit of STOP per decision.

    A coefficient k on STOP adds k (1 - p) to that logit's gradient, p the probability of the drawn decision; on
    RESAMPLE it takes k (1 - p) away, since pi_stop = 1 - p. Exact for a two-way decision.
    """
    w_BxS = np.broadcast_to(data.weight[:, None], k_BxS.shape)
    out = {}
    for i, name in enumerate(DECISION_NAMES):
        mask = data.decision_mask & (data.decision == i)
        k, w, rest = k_BxS[mask], w_BxS[mask], -np.expm1(data.logp[mask])
        two_way = data.decision_choices == 2
        out[name] = {
            "count": int(mask.sum()),
            "mean_probability": _mean(1 - rest, w),
            "mean_coefficient": _mean(k, w),
            "mean_absolute": _mean(abs(k), w),
            "pushed_up": _mean((k > 0).astype(float), w),
            "pushed_down": _mean((k < 0).astype(float), w),
            "push_on_stop_logit": _mean((k if i == 0 else -k) * rest, w) if two_way else None,
        }
    return out


def _outcome(data: Rollouts, k_BxS: np.ndarray, success: float | None, bootstrap: _Bootstrap) -> dict[str, Any]:
    """Drawn decisions of successful trajectories that are pushed up, and of failed ones that are pushed down."""
    low, high = float(data.reward.min()), float(data.reward.max())
    threshold = low + (high - low) / 2 if success is None else float(success)
    right_B = data.reward >= threshold
    known = success is not None or high > low
    toward = np.where(right_B[:, None], k_BxS, -k_BxS)
    statistics = {}
    for i, name in (*enumerate(DECISION_NAMES), (None, "all")):
        mask = data.decision_mask & (True if i is None else data.decision == i)
        count = data.weight * mask.sum(-1)
        pushes = {"agrees": toward > 0, "disagrees": toward < 0, "no push": toward == 0}
        for word, x in pushes.items():
            statistics[f"{name}|{word}"] = bootstrap.of(data.weight * (mask & x).sum(-1), count)
    out: dict[str, Any] = {
        "success_from": threshold if known else None,
        "success_rate": _mean(right_B.astype(float), data.weight) if known else None,
    }
    if known:
        for key, e in bootstrap.estimates(statistics).items():
            name, word = key.split("|")
            out.setdefault(name, {})[word] = e
    return out


def _logit_space(data: Rollouts, k_BxS: np.ndarray, bootstrap: _Bootstrap) -> dict[str, Any]:
    """M_c = E[sum over the tokens of c of k^2 |score|^2], each softmax in its own logits: exact values or bounds."""
    squares: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    parts = (("sample", data.sample_mask, data.vocabulary), ("decision", data.decision_mask, data.decision_choices))
    for component, mask, choices in parts:
        if data.score_norm is not None:
            bounds = (data.score_norm**2, data.score_norm**2)
        else:
            bounds = square_bounds(data.logp, choices)
        low, high = (data.weight * np.sum(np.where(mask, k_BxS**2 * b, 0.0), -1) for b in bounds)
        squares[component] = low, high
    (s_low, s_high), (d_low, d_high) = squares["sample"], squares["decision"]
    exact = {
        "sample": data.score_norm is not None or data.vocabulary == 2,
        "decision": data.score_norm is not None or data.decision_choices == 2,
    }
    statistics = {
        "sample|lower": bootstrap.of(s_low, data.weight),
        "sample|upper": bootstrap.of(s_high, data.weight),
        "decision|lower": bootstrap.of(d_low, data.weight),
        "decision|upper": bootstrap.of(d_high, data.weight),
        # The share rises with the decision's part and falls with the sampler's.
        "share|lower": bootstrap.of(d_low, d_low + s_high),
        "share|upper": bootstrap.of(d_high, d_high + s_low),
    }
    out: dict[str, Any] = {"sample": {}, "decision": {}, "share": {}}
    for key, e in bootstrap.estimates(statistics).items():
        quantity, side = key.split("|")
        out[quantity][side] = e
    for quantity in out:
        out[quantity]["status"] = _status(all(exact.values()) if quantity == "share" else exact[quantity])
    return out


def _status(exact: bool) -> str:
    return "available" if exact else "bound"


def _gradients(data: Rollouts, bootstrap: _Bootstrap) -> dict[str, Any] | None:
    """Signal and noise of the gradients in the file, Euclidean in their space; intervals over the N estimates.

    Signal |E[g]|^2 by the mean of g_i . g_j over pairs i != j: unbiased, so it can be negative. Noise of one estimate:
    E|g|^2 - |E[g]|^2. A pair of copies in a resample is no pair of independent estimates and is left out.
    """
    if data.gradient_sample is None or data.gradient_decision is None:
        return None
    g_s, g_d = data.gradient_sample, data.gradient_decision
    grams = {"sample": g_s @ g_s.T, "decision": g_d @ g_d.T, "cross": g_s @ g_d.T}
    number = len(g_s)

    def pairs(gram: np.ndarray) -> Statistic:
        own = np.diagonal(gram)

        def statistic(w: np.ndarray) -> np.ndarray:
            top = np.sum((w @ gram) * w, -1) - w**2 @ own
            bottom = np.sum(w, -1) ** 2 - np.sum(w**2, -1)
            return divide(top, bottom, np.nan)

        return statistic

    signal = {name: pairs(gram) for name, gram in grams.items()}
    moment = {name: ratio_of_sums(np.diagonal(grams[name]), np.ones(number)) for name in ("sample", "decision")}

    def positive(f: Statistic) -> Statistic:
        return lambda w: np.maximum(f(w), 0.0)

    def cosine(w: np.ndarray) -> np.ndarray:
        s, d, sd = (np.sum((w @ grams[n]) * w, -1) for n in ("sample", "decision", "cross"))
        size = np.sqrt(np.maximum(s, 0.0) * np.maximum(d, 0.0))
        return divide(sd, size, np.nan)

    statistics: dict[str, Statistic] = {
        "signal_sample": signal["sample"],
        "signal_decision": signal["decision"],
        "signal_share": _share(positive(signal["decision"]), positive(signal["sample"])),
        "noise_sample": lambda w: moment["sample"](w) - signal["sample"](w),
        "noise_decision": lambda w: moment["decision"](w) - signal["decision"](w),
        "cosine_of_means": cosine,
    }
    return {"estimates": number, **bootstrap.estimates(statistics, number)}
