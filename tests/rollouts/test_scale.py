"""Log-probs that are not nats of the law that drew the tokens: found where they are not, silent where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsjax.rollouts.format import check
from dsjax.rollouts.scale import LOG2, scale, sentences

N = 2000


def file(decision: np.ndarray, sample: np.ndarray, **more) -> dict[str, Any]:
    """A sampling token and a decision a row."""
    mask = np.tile([[True, False]], (len(sample), 1))
    arrays = {"logp": np.stack([sample, decision], 1), "sample_mask": mask, "decision_mask": ~mask}
    return {**arrays, "reward": np.zeros(len(sample)), "decision_choices": 2, "vocabulary": 50, **more}


def drawn(seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(log-probs of drawn two-way decisions, of drawn tokens) under laws that are drawn from at a temperature."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.0, 1.5, N)
    stop = rng.random(N) < 1 / (1 + np.exp(-logit / temperature))
    # One symbol has half of the mass, 49 share the rest.
    p = np.r_[0.5, np.full(49, 0.5 / 49)]
    law = p ** (1 / temperature) / np.sum(p ** (1 / temperature))
    return -np.log1p(np.exp(np.where(stop, -logit, logit))), np.log(p)[rng.choice(50, N, p=law)]


def said(arrays: dict[str, Any]) -> str:
    return " ".join(sentences(scale(check(arrays))))


def test_silent_where_all_is_well():
    """Also where an update and an engine moved the log-probs, and for a peaked or a flat law."""
    for seed in range(40):
        decision, sample = drawn(seed)
        noise = np.random.default_rng(seed).normal(0, 0.05, (2, N, 2))
        logp = np.stack([sample, decision], 1)
        moved = dict(zip(("old_logp", "sampler_logp"), np.minimum(logp + noise, 0.0), strict=True))
        assert said(file(decision, sample)) == said(file(decision, sample, **moved)) == ""
    assert said(file(np.zeros(N), np.zeros(N), old_logp=np.zeros((N, 2)))) == ""
    assert said(file(*(x[:10] / LOG2 for x in drawn(0)))) == ""  # too few to tell


@pytest.mark.parametrize(
    ("factor", "temperature", "words"),
    [
        (1 / LOG2, 1.0, ("look like log2, not nats", "log2 for nats")),
        (LOG2, 1.0, ("another temperature, base",)),
        (1.0, 1.6, ("less probable than", "another temperature", "drawn at a higher temperature")),
        (1.0, 0.6, ("more probable than", "another temperature")),
    ],
)
def test_one_array_alone(factor, temperature, words):
    decision, sample = (factor * x for x in drawn(3, temperature))
    found = said(file(decision, sample))
    assert all(word in found for word in words), found


def test_two_arrays_that_differ_by_a_factor():
    decision, sample = drawn(5)
    logp = np.stack([sample, decision], 1)
    base = file(decision, sample)
    assert "old_logp looks like log2, not nats: 1.443 times logp" in said({**base, "old_logp": logp / LOG2})
    found = said({**base, "logp": logp / LOG2, "sampler_logp": logp})
    assert "logp looks like log2" in found
    assert "sampler_logp looks" not in found
    # The same spread as that of log2, but probabilities that add up to 1.
    cooler = said({**base, "sampler_logp": np.minimum(logp / 0.7 + 0.5, 0.0)})
    assert "sampler_logp spreads 1.4 times as far as logp, as at temperature 0.71" in cooler
    assert "looks like log2" not in cooler
