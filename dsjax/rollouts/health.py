"""Is the run what it seems: ratios, mismatch, cancellation, and what a file leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsjax.numerics import divide
from dsjax.rollouts.format import Rollouts
from dsjax.rollouts.scale import scale, sentences
from dsjax.trajectories import STOP

CLIP = 0.2  # the common clip, by which ratios are told to be outside
COMPONENTS = {"sample": "pi_sample", "decision": "pi_d"}
MOST = 0.5  # of the absolute coefficient in one trajectory: worth a word


def health(data: Rollouts, c_BxS: np.ndarray) -> dict[str, Any]:
    """Numbers by component, `None` where the file has no array for them.

    ratio: pi/pi_old of the tokens: `mean`, `low`, `high`, `outside` (part beyond 1 +- 0.2). mismatch: of pi_old/mu,
    the same and `effective`, the effective part of the tokens (sum w)^2/(n sum w^2). net_over_gross: |sum c|/sum |c|.
    largest_trajectory: the greatest part of sum |c| in one trajectory. scale: see `scale.scale`.
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
        "scale": scale(data),
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


def _taken(data: Rollouts) -> str:
    """How what can be read in two ways was read."""
    given = set(data.given)
    said = ["log-probs as natural logarithms"]
    if "weight" not in given:
        said.append("every trajectory with the same weight")
    if "group" not in given:
        said.append("every trajectory as a group of its own")
    unused = int(((data.layout.place >= 0) & ~data.mask).sum())
    if unused:
        said.append(f"{unused} slots in no mask as prompt or padding")
    if data.starts.any():
        if "decision" not in given:
            what = "that is not cut off " if "truncated" in given else ""
            said.append(f"a decision that is the last token of a trajectory {what}as STOP, others as RESAMPLE")
        choices = data.decision_choices
        said.append(
            f"decisions as drawn from {choices} choices" if choices else "decisions by stop_logp and score_norm"
        )
    return f"Read: {'; '.join(said)}."


def notes(data: Rollouts, parts: dict[str, Any], advantage: str | None) -> list[str]:
    """Sentences; `parts` are the sections of `Diagnosis`, `advantage` what was done with the advantages of the file."""
    found = parts["health"]
    out = [*([] if advantage is None else [advantage]), _taken(data)]
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
                spread = (
                    f"mean {x['mean']:.3g}, {x['low']:.3g} to {x['high']:.3g}, {x['outside']:.1%} beyond 1 +- {CLIP}"
                )
                out.append(f"{words}, {COMPONENTS[component]}: {spread}; effective part {x['effective']:.0%}.")
    out.extend(sentences(found["scale"]))
    means = {name: d["mean_probability"] for name, d in parts["decisions"].items()}
    some = [f"{name} {p:.3g}" for name, p in means.items() if p is not None]
    if some:
        out.append(f"Mean probability of the drawn decisions: {', '.join(some)}.")
    net = {name: x for name, x in found["net_over_gross"].items() if x is not None}
    if net:
        words = ", ".join(f"{COMPONENTS[name]} {x:.0%}" for name, x in net.items())
        out.append(f"Net over gross coefficient (100 %: nothing cancels): {words}.")
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
