"""Decision share of the exact expected gradient against answer length, for the four objectives of figure F1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.attribution import attribute
from dsjax.errors import require
from dsjax.objectives import resolve
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories

VOCABULARY = 2
ROUNDS = 2
LONGEST = 7
SAMPLE_DRIFT = 0.6  # logit of token 0 at every position, against 0 in demonstrations and reference
DECIDE_DRIFT = 0.6
CURVES = {
    "reward": ("reinforce", {}),
    "SFT": ("sft", {}),
    "own-token KL": ("own_token_kl", {"estimator": "k2"}),
    "trajectory KL": ("trajectory_kl", {}),
}


def _positionwise(length: int, sample: float, decide: float) -> dict[str, jax.Array]:
    """Equal tokens at every position; the decider reads the first token and favours STOP on token 0."""
    token = jnp.array([sample, 0.0])
    return {
        "sample": jnp.broadcast_to(token, (1, length, VOCABULARY)),
        "decide": jnp.array([[[decide, 0.0], [-decide, 0.0]]]),
    }


def share_against_length(longest: int = LONGEST) -> list[dict[str, Any]]:
    """Exact decision shares for L = 1..longest, by enumeration of all trajectories in float64.

    One process for all curves: two symbols, two rounds, the verifier reads the first token (the others are filler), the
    sampler is position-wise with the same mismatch to demonstrations and reference at every token, and the decider has
    a mismatch of its own. So only the length changes along a curve.

    Returns:
      Rows {"objective", "length", "share" (energy), "euclidean_share", "block_share"}.
    """
    require(1 <= longest <= LONGEST, "longest", longest, f"1..{LONGEST} (enumeration)")
    rows: list[dict[str, Any]] = []

    @jax.jit  # one program a length: the curves share their Fisher matrices
    def columns(policy: PositionwisePolicy, params: Params, own: Trajectories, shown: Trajectories) -> dict[str, Any]:
        return {
            name: attribute(policy, params, shown if objective == "sft" else own, resolve(objective, options))
            for name, (objective, options) in CURVES.items()
        }

    with jax.enable_x64(True):
        for length in range(1, longest + 1):
            rewards = np.zeros((1, VOCABULARY**length))
            rewards[:, : VOCABULARY ** (length - 1)] = 1.0
            process = DecisionSamplingProcess.create(
                prompt_law=jnp.ones(1),
                reward_table=jnp.asarray(rewards),
                vocabulary=VOCABULARY,
                length=length,
                rounds=ROUNDS,
            )
            policy = PositionwisePolicy(num_prompts=1, vocabulary=VOCABULARY, length=length, reads=1)
            params, reference = (
                _positionwise(length, SAMPLE_DRIFT, DECIDE_DRIFT),
                _positionwise(length, 0.0, 0.0),
            )
            own = process.enumerate_trajectories(policy, params)
            own = own.replace(ref_logp=log_probs(policy, reference, own))
            shown = process.enumerate_trajectories(policy, reference)
            measured = columns(policy, params, own, shown)
            for name in CURVES:
                a = measured[name]
                rows.append(
                    {
                        "objective": name,
                        "length": length,
                        "share": float(a.share),
                        "euclidean_share": float(a.euclidean_share),
                        "block_share": float(a.block_share),
                    }
                )
    return rows
