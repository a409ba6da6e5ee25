"""Is the run what it seems: ratios, mismatch, cancellation, and what a file leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsjax.numerics import divide
from dsjax.rollouts.format import Rollouts
from dsjax.trajectories import STOP

CLIP = 0.2  # the common clip, by which ratios are told to be outside
MOST = 0.5  # of the absolute coefficient in one trajectory: worth a word


def health(data: Rollouts, c_BxS: np.ndarray) -> dict[str, Any]:
    """Numbers by component, `None` where the file has no array for them.

    ratio: pi/pi_old of the tokens: `mean`, `low`, `high`, `outside` (part beyond 1 +- 0.2). mismatch: of pi_old/mu,
    the same and `effective`, the effective part of the tokens (sum w)^2/(n sum w^2). net_over_gross: |sum c|/sum |c|.
    largest_trajectory: the greatest part of sum |c| in one trajectory.
    """
    parts = {"sample": data.sample_mask, "decision": data.decision_mask}
    old = data.logp if data.old_logp is None else data.old_logp
    gross_B = abs(c_BxS).sum(-1)
    return {
        "ratio": None if data.old_logp is None else {n: _spread((data.logp - old)[m]) for n, m in parts.items()},
        "mismatch": None
        if data.sampler_logp is None
        else {n: _spread((old - data.sampler_logp)[m]) for n, m in parts.items()},
        "net_over_gross": {n: _part(abs(c_BxS[m].sum()), abs(c_BxS[m]).sum()) for n, m in parts.items()},
        "largest_trajectory": _part(gross_B.max(), gross_B.sum()),
    }


def _part(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole > 0 else None


def _spread(log_ratio: np.ndarray) -> dict[str, float] | None:
    """Of the ratios of some tokens; None of none."""
    if log_ratio.size == 0:
        return None
    with np.errstate(over="ignore"):
        ratio = np.exp(log_ratio)
    relative = np.exp(log_ratio - log_ratio.max())  # no overflow in squares
    return {
        "mean": float(ratio.mean()),
        "low": float(ratio.min()),
        "high": float(ratio.max()),
        "outside": float((abs(ratio - 1) > CLIP).mean()),
        "effective": float(divide(relative.sum() ** 2, relative.size * np.sum(relative**2))),
    }


def notes(data: Rollouts, found: dict[str, Any], advantage: str | None) -> list[str]:
    """Sentences; `found` is `health`, `advantage` what was done with the advantages of the file."""
    out = [] if advantage is None else [advantage]
    rows, given = data.layout.shape[0], set(data.given)
    N = len(data.weight)
    if "trajectory" in given or "segment_ids" in given:
        out.append(f"{N} trajectories in {rows} rows of the file.")
    elif rows > N:
        out.append(f"Rows of weight 0 left out: {rows - N} of {rows}.")
    if data.old_logp is not None and bool((data.old_logp == data.logp).all()):
        out.append("old_logp is logp: on-policy, every ratio is 1 and no clip binds.")
    for name, words in (("ratio", "pi/pi_old"), ("mismatch", "pi_old/mu")):
        for component, x in (found[name] or {}).items():
            if x is not None and x["low"] != x["high"]:
                out.append(
                    f"{words}, {component}: mean {x['mean']:.3g}, {x['low']:.3g} to {x['high']:.3g}, {x['outside']:.1%}"
                    f" beyond 1 +- {CLIP}; effective part {x['effective']:.0%}."
                )
    drawn = data.decision[data.starts]
    if not drawn.size:
        out.append("No decision in the file: nothing can be said about pi_d.")
    elif not (drawn == STOP).any():
        out.append("No STOP was drawn: every decision of the file is RESAMPLE.")
    full = data.mask[:, -1]
    if "decision" not in given and "truncated" not in given and full.any():
        decides = int((full & data.decision_mask[:, -1]).sum())
        if decides:
            out.append(
                f"Trajectories that fill the width and end with a decision, read as STOP: {decides}. If they were cut "
                "off after RESAMPLE, give truncated or decision."
            )
        if int(full.sum()) > decides:
            out.append(f"Trajectories that fill the width without a last decision: {int(full.sum()) - decides}.")
    if N > 2 and (found["largest_trajectory"] or 0.0) > MOST:
        out.append(f"One trajectory holds {found['largest_trajectory']:.0%} of the absolute coefficient.")
    return out
