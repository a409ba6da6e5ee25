"""Rollouts without log-probs: what an on-policy objective's coefficients alone tell.

At ratio 1 the coefficients of most objectives are functions of advantages and lengths: `c_it` does not depend on the
log-probs. Whether that holds is tried, not assumed: two sets of log-probs must give the same coefficients. What needs
probabilities (logit space, the push on STOP) is then said to be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsjax.errors import InputError
from dsjax.statistics import Estimate

STATUS = "needs logp"
NOTE = "No log-probs in the file: coefficients at ratio 1, the first gradient step; nothing that needs probabilities."
NO_SCALE = {"factor": {}, "decisions": None, "improbable": None}


def filled(arrays: Mapping[str, Any], again: bool = False) -> dict[str, Any]:
    """The arrays with log-probs that stand in for those that are not there; `again` are others."""
    shape = np.shape(arrays["sample_mask"])
    logp = -np.random.default_rng(0).uniform(0.1, 3.0, shape) if again else np.full(shape, -0.5)
    about_them = ("stop_logp", "score_norm")
    return {**{n: x for n, x in arrays.items() if n not in about_them}, "logp": logp, "old_logp": logp}


def compared(name: str, first: tuple[Any, ...], again: tuple[Any, ...]) -> float | None:
    """The loss of an objective whose (loss, coefficients) are asked twice; None if it depends on log-probs.

    Raises:
      InputError: if the coefficients depend on them.
    """
    # The same float64 operations on the same advantages, but for a ratio that is 1 up to rounding.
    if not np.allclose(first[1], again[1], rtol=1e-12, atol=0):
        raise InputError("logp", "no such array", f"the array logp: the coefficients of {name} depend on it")
    return first[0] if math.isclose(first[0], again[0], rel_tol=1e-9) else None


def without_probabilities(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a diagnosis, less what the stand-ins say."""
    none = Estimate(math.nan)
    given = [name for name in parts["rollouts"]["arrays"] if name not in ("logp", "old_logp")]
    return {
        **parts,
        "health": {**parts["health"], "ratio": None, "mismatch": None, "scale": NO_SCALE},
        "rollouts": {**parts["rollouts"], "arrays": given},
        "decisions": {
            name: {**row, "mean_probability": None, "push_on_stop_logit": None}
            for name, row in parts["decisions"].items()
        },
        "logit_space": {name: {"lower": none, "upper": none, "status": STATUS} for name in parts["logit_space"]},
    }


def unavailable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of `words.availability`, with what needs probabilities marked."""
    missing = {"status": STATUS, "why": "no log-probs in the file"}
    logit = ("logit space", "its decision share")
    return [{**row, **missing} if any(words in row["quantity"] for words in logit) else row for row in rows]
