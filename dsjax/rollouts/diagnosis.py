"""Attribution of a run of any framework, from log-probs, masks and rewards: what they can tell and what they cannot.

Conventions (i) to (iii) of docs/theory.md are functions of coefficients, so log-probs determine them; (iv) needs the
gradients themselves. In logit space, where every prefix has a softmax of its own, one trajectory's gradient has squared
length `sum_t k_t^2 |score_t|^2`, since its tokens stand in different prefixes; `|score|^2 = 2 (1 - p)^2` for a two-way
softmax, with bounds for a V-way one (`square_bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from dsjax.attribution import by_answer, per_factor, per_token, share
from dsjax.errors import InputError, require
from dsjax.numerics import divide, exact
from dsjax.objectives import Objective, resolve
from dsjax.objectives.law import on_law
from dsjax.objectives.registry import name_of
from dsjax.objectives.returns import coefficients, loss_of, require_finite
from dsjax.rollouts.format import Rollouts, check, square_bounds
from dsjax.rollouts.words import availability, reading
from dsjax.statistics import RESAMPLES, Bootstrap, Estimate, Statistic, ratio_of_sums
from dsjax.trajectories import DECISION_NAMES

Estimates = dict[str, dict[str, Estimate]]

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
    conventions: Estimates  # (i), (ii), (iii): `factor`, `token`, `block`
    balance: dict[str, Any]  # is there one coefficient per trajectory
    decisions: dict[str, dict[str, Any]]  # by type, STOP and RESAMPLE
    outcome: dict[str, Any]  # do the signs of the decision coefficients agree with the outcome
    logit_space: dict[str, Any]  # second moments: exact values or bounds
    gradients: dict[str, Any] | None  # with gradients in the file only
    availability: list[dict[str, str]]  # rows {"quantity", "status", "why"}
    reading: str  # one paragraph

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the coefficients of single tokens."""

        def plain(x: Any) -> Any:
            if isinstance(x, dict):
                return {name: plain(value) for name, value in x.items()}
            return x.to_json() if isinstance(x, Estimate) else x

        names = [name for name in self.__dataclass_fields__ if name != "coefficients"]
        return {"format": 1, **{name: plain(getattr(self, name)) for name in names}}


def attribute_rollouts(
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
      options: of the objective.
      success: returns from here on count as success; midway between the smallest and the largest by default.
      resamples: of the bootstrap, over groups if given, else over trajectories.
      seed: of the bootstrap.
      **arrays: `logp`, `sample_mask`, `decision_mask`, `reward` and any of `rollouts.format.OPTIONAL`.

    Raises:
      InputError: for arrays that do not fit together, or that this objective needs and did not get.
    """
    require(resamples >= 1, "resamples", resamples, "at least 1")
    require(success is None or bool(np.isfinite(success)), "success", success, "a finite return")
    options, name, data = dict(options or {}), name_of(objective), check(arrays)
    loss, c_BxS = _evaluate(resolve(objective, options), name, data)
    k_BxS, bootstrap = divide(c_BxS, data.weight[:, None]), _Bootstrap(data, resamples, seed)
    parts: dict[str, Any] = {
        "rollouts": _counts(data),
        "conventions": _conventions(data, c_BxS, bootstrap),
        "balance": _balance(data, k_BxS),
        "decisions": _decisions(data, k_BxS),
        "outcome": _outcome(data, k_BxS, success, bootstrap),
        "logit_space": _logit_space(data, k_BxS, bootstrap),
        "gradients": _gradients(data, bootstrap),
    }
    words = {"availability": availability(data, parts), "reading": reading(name, parts)}
    return Diagnosis(objective=name, options=options, loss=loss, coefficients=c_BxS, **parts, **words)


def _evaluate(function: Objective, name: str, data: Rollouts) -> tuple[float, np.ndarray]:
    """Loss and c_BxS in float64; not jitted, so that the library's own checks see the values."""
    with exact():
        logp, traj = jnp.asarray(data.logp), data.trajectories()
        function = on_law(function, logp, traj)
        try:
            loss, c_BxS = float(loss_of(function, logp, traj)), np.asarray(coefficients(function, logp, traj))
        except InputError as error:
            if error.field in ("old_logp", "ref_logp", "values") and error.received is None:
                raise InputError(error.field, "no such array", f"the array {error.field}: {name} needs it") from error
            if error.field == "group size":
                allowed = f"{error.allowed}: the array group must put 2 or more trajectories in each group for {name}"
                raise InputError("group", f"a group of {error.received}", allowed) from error
            raise
    require_finite(name, loss, c_BxS)
    return loss, c_BxS


class _Bootstrap:
    """Point values and intervals of ratios of sums over trajectories; whole groups are drawn."""

    def __init__(self, data: Rollouts, resamples: int, seed: int):
        self.cluster, self.number = data.group, data.num_groups
        self.resamples, self.seed = resamples, seed

    def of(self, numerator_B: np.ndarray, denominator_B: np.ndarray) -> Statistic:
        """Ratio of two sums over trajectories, as a function of group weights."""
        return ratio_of_sums(*(np.bincount(self.cluster, x, self.number) for x in (numerator_B, denominator_B)))

    def estimates(self, rows: Mapping[str, Mapping[str, Statistic]], number: int | None = None) -> Estimates:
        """{row: {column: estimate}}, all from the same resamples; no interval for a single unit."""
        number = self.number if number is None else number
        flat = {(row, column): f for row, columns in rows.items() for column, f in columns.items()}
        found = Bootstrap(number, self.resamples if number > 1 else 0, self.seed).estimates(flat)
        out: Estimates = {row: {} for row in rows}
        for (row, column), e in found.items():
            out[row][column] = e
        return out


def _share(part: Statistic, other: Statistic) -> Statistic:
    return lambda weights: share(part(weights), other(weights))


def _mean(x: np.ndarray, weight: np.ndarray) -> float | None:
    """Weighted mean; None over nothing."""
    total = float(weight.sum())
    return float((weight * x).sum()) / total if total > 0 else None


def _counts(data: Rollouts) -> dict[str, Any]:
    length_BxS = by_answer(np.ones_like(data.logp), data).astype(int)
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


def _conventions(data: Rollouts, c_BxS: np.ndarray, bootstrap: _Bootstrap) -> Estimates:
    rows: dict[str, dict[str, Statistic]] = {}
    token = per_token(c_BxS, data)
    for unit, (s, d) in {"factor": per_factor(c_BxS, data), "token": token}.items():
        sample, decision = (bootstrap.of(tally.absolute, tally.count) for tally in (s, d))
        rows[unit] = {
            "sample": sample,
            "decision": decision,
            "share": _share(decision, sample),
            "signed_sample": bootstrap.of(s.signed, s.count),
            "signed_decision": bootstrap.of(d.signed, d.count),
        }
    s, d = token
    rows["block"] = {  # per trajectory; a net push may cancel, which signed over absolute tells
        "sample": bootstrap.of(s.absolute, data.weight),
        "decision": bootstrap.of(d.absolute, data.weight),
        "share": bootstrap.of(d.absolute, s.absolute + d.absolute),
        "signed_sample": bootstrap.of(s.signed, data.weight),
        "signed_decision": bootstrap.of(d.signed, data.weight),
        "one_sided_sample": bootstrap.of(s.signed, s.absolute),
        "one_sided_decision": bootstrap.of(d.signed, d.absolute),
    }
    return bootstrap.estimates(rows)


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
    if success is None and high == low:
        return {"success_from": None, "success_rate": None}
    threshold = low + (high - low) / 2 if success is None else float(success)
    right_B = data.reward >= threshold
    toward = np.where(right_B[:, None], k_BxS, -k_BxS)
    pushes = {"agrees": toward > 0, "disagrees": toward < 0, "no push": toward == 0}
    masks = {name: data.decision_mask & (data.decision == i) for i, name in enumerate(DECISION_NAMES)}
    rows = {
        name: {
            word: bootstrap.of(data.weight * (mask & x).sum(-1), data.weight * mask.sum(-1))
            for word, x in pushes.items()
        }
        for name, mask in {**masks, "all": data.decision_mask}.items()
    }
    rate = _mean(right_B.astype(float), data.weight)
    return {"success_from": threshold, "success_rate": rate, **bootstrap.estimates(rows)}


def _logit_space(data: Rollouts, k_BxS: np.ndarray, bootstrap: _Bootstrap) -> dict[str, Any]:
    """M_c = E[sum over the tokens of c of k^2 |score|^2], each softmax in its own logits: exact values or bounds."""
    norm = data.score_norm

    def squares(mask: np.ndarray, choices: int | None) -> tuple[np.ndarray, ...]:
        bounds = square_bounds(data.logp, choices) if norm is None else (norm**2, norm**2)
        return tuple(data.weight * np.sum(np.where(mask, k_BxS**2 * b, 0.0), -1) for b in bounds)

    s_low, s_high = squares(data.sample_mask, data.vocabulary)
    d_low, d_high = squares(data.decision_mask, data.decision_choices)
    rows = {
        "sample": {"lower": bootstrap.of(s_low, data.weight), "upper": bootstrap.of(s_high, data.weight)},
        "decision": {"lower": bootstrap.of(d_low, data.weight), "upper": bootstrap.of(d_high, data.weight)},
        # The share rises with the decision's part and falls with the sampler's.
        "share": {"lower": bootstrap.of(d_low, d_low + s_high), "upper": bootstrap.of(d_high, d_high + s_low)},
    }
    two_way = {"sample": data.vocabulary == 2, "decision": data.decision_choices == 2}
    two_way["share"] = all(two_way.values())
    return {
        name: {**row, "status": "available" if norm is not None or two_way[name] else "bound"}
        for name, row in bootstrap.estimates(rows).items()
    }


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
    return {"estimates": number, **bootstrap.estimates({"": statistics}, number)[""]}
