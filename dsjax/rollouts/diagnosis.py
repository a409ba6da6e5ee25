"""Attribution of a run of any framework, from log-probs, masks and rewards: what they can tell and what they cannot.

Conventions (i) to (iii) of docs/theory.md are functions of coefficients, so log-probs determine them; (iv) needs the
gradients themselves. In logit space, where every prefix has a softmax of its own, one trajectory's gradient has squared
length `sum_t k_t^2 |score_t|^2`, since its tokens stand in different prefixes; `|score|^2 = 2 (1 - p)^2` for a two-way
softmax, with bounds for a V-way one (`square_bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsjax.attribution import Tally, by_answer, per_factor, per_token, share
from dsjax.config import is_finite, require_int, require_seed
from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives import Objective
from dsjax.rollouts import unscored
from dsjax.rollouts.arrays import FORMAT
from dsjax.rollouts.evaluation import Evaluator
from dsjax.rollouts.format import Rollouts, check, square_bounds
from dsjax.rollouts.health import health, notes
from dsjax.rollouts.words import availability, reading
from dsjax.statistics import RESAMPLES, Bootstrap, Estimate, Statistic, of_resamples, ratio_of_sums
from dsjax.trajectories import DECISION_NAMES, STOP

Estimates = dict[str, dict[str, Estimate]]

# Coefficients are a handful of float64 operations on the same advantage: equal up to some tens of eps.
EQUAL = 1e-12


@dataclass(frozen=True)
class Diagnosis:
    """What the rollouts tell; `to_json` has every number, docs/attribute.md explains them."""

    objective: str
    options: dict[str, Any]
    loss: float | None  # None where it depends on log-probs that the file does not have
    coefficients: np.ndarray  # f[B, S] c_it in the slots of the file, ascent direction, 0 outside of the masks
    health: dict[str, Any]  # ratios, mismatch of sampler and trainer, cancellation, by component
    notes: list[str]  # what was taken for granted, or is odd
    rollouts: dict[str, Any]  # counts of trajectories, groups, tokens, answers and decisions
    conventions: Estimates  # (i), (ii), (iii): `factor`, `token`, `block`
    balance: dict[str, Any]  # is there one coefficient per trajectory
    decisions: dict[str, dict[str, Any]]  # by type, STOP and RESAMPLE
    outcome: dict[str, Any]  # do the signs of the decision coefficients agree with the outcome
    stopping: dict[str, Any]  # P(STOP | right), P(STOP | wrong), and of what right and wrong are known
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
        return {"format": FORMAT, **{name: plain(getattr(self, name)) for name in names}}


def attribute_rollouts(
    objective: str | Objective | Evaluator = "reinforce",
    options: Mapping[str, Any] | None = None,
    *,
    success: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_policy: bool = False,
    logp_tolerance: float | None = None,
    **arrays: Any,
) -> Diagnosis:
    """The attribution quantities that log-probs, masks and rewards of any framework determine.

    The objective need not be the one that the run trains with: any objective can be asked about the same rollouts.

    Args:
      objective: a name of the registry, `module:function`, or a function `(logp_BxS, traj) -> (sum, count)`; or an
        `Evaluator`, which has its options and is compiled once for all files of a shape.
      options: of the objective.
      success: returns from here on count as success; midway between the smallest and the largest by default.
      resamples: of the bootstrap, over groups if given, else over trajectories.
      seed: of the bootstrap.
      on_policy: the tokens were drawn under `logp`: it is `old_logp` too.
      logp_tolerance: log-probabilities up to this are read as 0 (bfloat16 rounds them by some 0.01).
      **arrays: `logp`, `sample_mask`, `decision_mask`, `reward` and any of `rollouts.arrays.OPTIONAL`.

    Raises:
      InputError: for arrays that do not fit together, or that this objective needs and did not get.
    """
    require_int("resamples", resamples, 1)
    require_seed("seed", seed)
    require(success is None or is_finite(success), "success", success, "a finite return")
    tolerable = logp_tolerance is None or (is_finite(logp_tolerance) and logp_tolerance >= 0)
    require(tolerable, "logp_tolerance", logp_tolerance, "a finite number >= 0")
    bare = on_policy and arrays.get("logp") is None and arrays.get("sample_mask") is not None
    if on_policy:
        require(arrays.get("old_logp") is None, "on_policy", True, "rollouts without old_logp")
        arrays["old_logp"] = arrays.get("logp")
    if bare:
        arrays = unscored.filled(arrays)
    if isinstance(objective, Evaluator):
        require(not options, "options", options, "none: an Evaluator has its own")
        evaluator = objective
    else:
        evaluator = Evaluator(objective, options)
    data = check(arrays, logp_tolerance)
    loss, c_BxS, taken = found = evaluator(data)
    name = evaluator.name
    if bare:
        loss = unscored.compared(name, found, evaluator(check(unscored.filled(arrays, again=True))))
    k_BxS, bootstrap = divide(c_BxS, data.weight[:, None]), _Bootstrap(data, resamples, seed)
    outcome, outcome_rows = _outcome(data, k_BxS, success, bootstrap)
    status, logit_rows = _logit_space(data, k_BxS, bootstrap)
    known, stopping_rows = _stopping(data, outcome["success_from"], bootstrap)
    estimates = bootstrap.estimates(
        {
            "conventions": _conventions(data, c_BxS, bootstrap),
            "outcome": outcome_rows,
            "stopping": {"": stopping_rows},
            "logit_space": logit_rows,
        }
    )
    parts: dict[str, Any] = {
        "health": health(data, c_BxS),
        "rollouts": _counts(data),
        "balance": _balance(data, k_BxS),
        "decisions": _decisions(data, k_BxS),
        "conventions": estimates["conventions"],
        "outcome": {**outcome, **estimates["outcome"]},
        "stopping": {"known_of": known, **estimates["stopping"][""]},
        "logit_space": {name: {**row, "status": status[name]} for name, row in estimates["logit_space"].items()},
        "gradients": _gradients(data, resamples, seed),
    }
    if bare:
        parts = unscored.without_probabilities(parts)
    words: dict[str, Any] = {
        "notes": notes(data, parts, taken),
        "availability": availability(data, parts),
        "reading": reading(name, parts),
    }
    if bare:
        words |= {
            "notes": [unscored.NOTE, *words["notes"]],
            "availability": unscored.unavailable(words["availability"]),
        }
    return Diagnosis(
        objective=name, options=evaluator.options, loss=loss, coefficients=data.layout.back(c_BxS), **parts, **words
    )


Sums = np.ndarray  # f[R, K] sums of K columns over the trajectories, in R resamples
OfSums = Callable[[Sums], np.ndarray]  # f[R]
Rows = dict[str, dict[str, OfSums]]


class _Bootstrap:
    """Point values and intervals of functions of sums over trajectories; whole groups are drawn, once for all."""

    def __init__(self, data: Rollouts, resamples: int, seed: int):
        self._group, self._groups = data.group, data.num_groups
        self._resamples, self._seed = resamples, seed
        self._columns: list[np.ndarray] = []  # each f[groups]

    def of(self, numerator_B: np.ndarray, denominator_B: np.ndarray) -> OfSums:
        """Ratio of two sums over trajectories; NaN where the second is 0."""
        top, bottom = self._column(numerator_B), self._column(denominator_B)
        return lambda sums: divide(sums[:, top], sums[:, bottom], np.nan)

    def _column(self, x_B: np.ndarray) -> int:
        self._columns.append(np.bincount(self._group, x_B, self._groups))
        return len(self._columns) - 1

    def estimates(self, sections: Mapping[str, Rows]) -> dict[str, Estimates]:
        """{section: {row: {column: estimate}}}, all from the same resamples."""
        sums = _resamples(self._groups, self._resamples, self._seed).sums(np.stack(self._columns, axis=-1))

        def estimated(f: OfSums) -> Estimate:
            found = f(sums)
            return of_resamples(found[0], found[1:])

        return {
            section: {row: {column: estimated(f) for column, f in columns.items()} for row, columns in rows.items()}
            for section, rows in sections.items()
        }


def _resamples(units: int, resamples: int, seed: int) -> Bootstrap:
    """No intervals for a single unit."""
    return Bootstrap(units, resamples if units > 1 else 0, seed)


def _share(part: Statistic, other: Statistic) -> Statistic:
    return lambda x: share(part(x), other(x))


def _mean(x: np.ndarray, weight: np.ndarray) -> float | None:
    """Weighted mean; None over nothing."""
    total = float(weight.sum())
    return float((weight * x).sum()) / total if total > 0 else None


def _counts(data: Rollouts) -> dict[str, Any]:
    length_BxS = by_answer(np.ones_like(data.logp), data).astype(int)
    lengths, decisions = length_BxS[length_BxS > 0], data.starts.sum(-1)
    S = data.logp.shape[1]
    last = S - 1 - np.argmax(data.mask[:, ::-1], axis=1)  # the last drawn token of a row
    rows, drawn = np.arange(len(last)), data.mask.any(-1)
    ends = data.decision_mask[rows, last] & drawn
    # Not a quantile between two observed lengths: an answer has a whole number of tokens.
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf") if lengths.size else []
    mean = variance = None
    if data.reward is not None:
        mean = _mean(data.reward, data.weight)
        variance = float(np.sum(data.weight * (data.reward - np.sum(data.weight * data.reward)) ** 2))
    return {
        "trajectories": len(data.weight),
        "rows_of_the_file": data.layout.shape[0],
        "groups": data.num_groups if "group" in data.given else None,
        "sampling_tokens": int(data.sample_mask.sum()),
        "decision_tokens": int(data.decision_mask.sum()),
        "answers": int(lengths.size),
        "answer_length_mean": float(lengths.mean()) if lengths.size else None,
        "answer_length_quantiles": [int(q) for q in quantiles],
        "decisions": int(decisions.sum()),
        "decisions_per_trajectory": float(decisions.mean()),
        "ended_by_stop": int((ends & (data.decision[rows, last] == 0)).sum()),
        "ended_by_resample": int((ends & (data.decision[rows, last] == 1)).sum()),
        "ended_without_decision": int((~ends).sum()),
        "truncated": int(data.truncated.sum()) if "truncated" in data.given else None,
        "decision_types": "given" if "decision" in data.given else "by position",
        "mean_reward": mean,
        "reward_variance": variance,
        "arrays": list(data.given),
    }


def _conventions(data: Rollouts, c_BxS: np.ndarray, bootstrap: _Bootstrap) -> Rows:
    rows: Rows = {}
    token, factor = per_token(c_BxS, data), per_factor(c_BxS, data)
    if (data.starts != data.decision_mask).any():  # a decision of several tokens is one factor, with their mean
        c = data.mean_of_decision(c_BxS)
        factor = factor[0], Tally(abs(c).sum(-1), c.sum(-1), data.weight * data.starts.sum(-1))
    for unit, (s, d) in {"factor": factor, "token": token}.items():
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
    return rows


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
        "tolerance": EQUAL,
    }


def _decisions(data: Rollouts, k_BxS: np.ndarray) -> dict[str, dict[str, Any]]:
    """By type: how many, their coefficients, and the push on the logit of STOP per decision.

    A coefficient k on STOP adds k (1 - p(STOP)) to that logit's gradient, one on RESAMPLE takes k p(STOP) away. Of a
    two-way decision, p(STOP) is 1 - p where RESAMPLE was drawn. Of several tokens, the first one decides; the
    coefficient in the other columns is their mean.
    """
    w_BxS = np.broadcast_to(data.weight[:, None], k_BxS.shape)
    mean_BxS, logp_BxS = data.mean_of_decision(k_BxS), data.of_decision(data.logp)
    out = {}
    for i, name in enumerate(DECISION_NAMES):
        mask = data.starts & (data.decision == i)
        k, w, logp = mean_BxS[mask], w_BxS[mask], data.logp[mask]
        moved = None
        if data.stop_logp is not None:
            moved = -np.expm1(data.stop_logp[mask]) if i == STOP else np.exp(data.stop_logp[mask])
        elif data.decision_choices == 2:
            moved = -np.expm1(logp)
        push = (1 if i == STOP else -1) * k_BxS[mask]
        out[name] = {
            "count": int(mask.sum()),
            "mean_probability": _mean(1 + np.expm1(logp_BxS[mask]), w),
            "mean_coefficient": _mean(k, w),
            "mean_absolute": _mean(abs(k), w),
            "pushed_up": _mean((k > 0).astype(float), w),
            "pushed_down": _mean((k < 0).astype(float), w),
            "push_on_stop_logit": None if moved is None else _mean(push * moved, w),
        }
    return out


def _outcome(
    data: Rollouts, k_BxS: np.ndarray, success: float | None, bootstrap: _Bootstrap
) -> tuple[dict[str, Any], Rows]:
    """Drawn decisions of successful trajectories that are pushed up, and of failed ones that are pushed down."""
    if data.reward is None:
        return {"success_from": None, "success_rate": None}, {}
    low, high = float(data.reward.min()), float(data.reward.max())
    if success is None and high == low:
        return {"success_from": None, "success_rate": None}, {}
    threshold = low + (high - low) / 2 if success is None else float(success)
    right_B = data.reward >= threshold
    mean_BxS = data.mean_of_decision(k_BxS)
    toward = np.where(right_B[:, None], mean_BxS, -mean_BxS)
    pushes = {"agrees": toward > 0, "disagrees": toward < 0, "no push": toward == 0}
    masks = {name: data.starts & (data.decision == i) for i, name in enumerate(DECISION_NAMES)}
    rows = {
        name: {
            word: bootstrap.of(data.weight * (mask & x).sum(-1), data.weight * mask.sum(-1))
            for word, x in pushes.items()
        }
        for name, mask in {**masks, "all": data.starts}.items()
    }
    rate = _mean(right_B.astype(float), data.weight)
    return {"success_from": threshold, "success_rate": rate}, rows


def _stopping(
    data: Rollouts, success_from: float | None, bootstrap: _Bootstrap
) -> tuple[str | None, dict[str, OfSums]]:
    """P(STOP) of drawn decisions at right and at wrong answers; (what is known to be right or wrong, both).

    Without `correct` only the end of a trajectory is known: of a RESAMPLE that is not the answer that it decided about.
    """
    stop, known = data.starts & (data.decision == STOP), "answer"
    if data.correct is not None:
        right = data.correct
    elif data.reward is not None and success_from is not None:
        right, known = np.broadcast_to((data.reward >= success_from)[:, None], stop.shape), "trajectory"
    else:
        return None, {name: lambda sums: np.full(len(sums), np.nan) for name in ("right", "wrong")}
    masks = {"right": data.starts & right, "wrong": data.starts & ~right}
    return known, {
        name: bootstrap.of(data.weight * (stop & mask).sum(-1), data.weight * mask.sum(-1))
        for name, mask in masks.items()
    }


def _logit_space(data: Rollouts, k_BxS: np.ndarray, bootstrap: _Bootstrap) -> tuple[dict[str, str], Rows]:
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
    exact = {name: norm is not None or two_way[name] for name in rows}
    return {name: "available" if known else "bound" for name, known in exact.items()}, rows


def _gradients(data: Rollouts, resamples: int, seed: int) -> dict[str, Any] | None:
    """Signal and noise of the gradients in the file, Euclidean in their space; intervals over the N estimates.

    Signal |E[g]|^2 by the mean of g_i . g_j over pairs i != j: unbiased, so it can be negative. Noise of one estimate:
    E|g|^2 - |E[g]|^2; signal to noise is their ratio. A pair of copies in a resample is no pair of independent
    estimates and is left out.
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

    def noise(name: str) -> Statistic:
        return lambda w: moment[name](w) - signal[name](w)

    def to_noise(name: str) -> Statistic:
        return lambda w: divide(signal[name](w), noise(name)(w), np.nan)

    statistics: dict[str, Statistic] = {
        "signal_sample": signal["sample"],
        "signal_decision": signal["decision"],
        "signal_share": _share(positive(signal["decision"]), positive(signal["sample"])),
        **{f"noise_{name}": noise(name) for name in moment},
        **{f"signal_to_noise_{name}": to_noise(name) for name in moment},
        "cosine_of_means": cosine,
    }
    return {"estimates": number, **_resamples(number, resamples, seed).estimates(statistics)}
