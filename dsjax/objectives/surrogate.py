"""Reward objectives: one generic surrogate; the named objectives are thin settings of it (`named`).

The pieces are named and independent: an advantage (`advantages`), a ratio to the policy before the update and a clip
rule (`ratios`), a correction for the engine that sampled (`mismatch`), an aggregation (`aggregation`), and a KL in the
reward or in the loss (`kl`). The ascent direction of each objective is `sum_{i,t} c_it grad log pi(y_it)`.
"""

from __future__ import annotations

from functools import partial

import jax

from dsjax.errors import require
from dsjax.objectives import advantages
from dsjax.objectives.aggregation import SumCount, aggregate
from dsjax.objectives.kl import is_zero, minus_entropy, reward_with_kl, token_rewards_with_kl
from dsjax.objectives.kl import token_kl as token_kl_of
from dsjax.objectives.mismatch import correction, without
from dsjax.objectives.options import taken
from dsjax.objectives.ratios import token_loss
from dsjax.objectives.registry import register
from dsjax.trajectories import Trajectories


@register("surrogate")
def surrogate(
    logp_BxS: jax.Array,
    traj: Trajectories,
    *,
    advantage: str | jax.Array = "none",
    ratio: str = "none",
    clip_rule: str = "none",
    clip: float = 0.2,
    clip_high: float | None = None,
    ratio_cap: float | None = None,
    dual_clip: float | None = None,
    temperature: float | None = None,
    temperature_negative: float | None = None,
    beta: float | None = None,
    mismatch: str = "none",
    mismatch_low: float | None = None,
    mismatch_high: float | None = None,
    rejected: str = "count",
    aggregation: str = "sequence_sum",
    max_tokens: int | None = None,
    tokens_per_sequence: float | jax.Array | None = None,
    reward_kl: float | jax.Array = 0.0,
    token_kl: float | jax.Array = 0.0,
    kl_estimator: str = "k2",
    entropy: float | jax.Array = 0.0,
    group_size: int | None = None,
    reward_support: tuple[float, ...] | None = None,
    epsilon: float | None = None,
    std_of: str | None = None,
    ddof: int | None = None,
    std_floor: float | None = None,
    positive_weight: float | None = None,
    threshold: float | None = None,
    discount: float | None = None,
    gae_lambda: float | None = None,
    whiten: bool | None = None,
) -> SumCount:
    """(sum, count) of the aggregated `-A log pi`, or of the clipped `-rho A`, plus KL and entropy terms.

    Args:
      logp_BxS: log-probs in nats.
      traj: trajectories; with `old_logp` for a ratio or a KL in the reward, `ref_logp` for a KL, `values` for GAE,
        `sampler_logp` for a mismatch.
      advantage: a name of `advantages.ADVANTAGES`, or the advantages themselves, f[B] or f[B, S]. The latter lets
        micro-batches share statistics of the whole batch: compute them once, give each part its rows.
      ratio: `none` (-A log pi), `token`, `sequence` or `geometric`, see `ratios.ratio`.
      clip_rule: of `ratios.CLIP_RULES`; all but `none` need a ratio.
      clip: ratios are clipped at 1 - clip below, and at 1 + clip above unless `clip_high` is given; `gmpo`: log ratios
        at -clip and clip; `dppo_tv`, `dppo_kl`: the distance that a probability may move.
      clip_high: upper clip.
      ratio_cap: ratios are held at this number (TRL's `delta`).
      dual_clip: C; where A < 0 the loss is at most -C A (verl's `clip_ratio_c`). For `ppo`, with C above 1 + clip_high,
        it is `ratio_cap`.
      temperature: of `sapo` where A > 0.
      temperature_negative: of `sapo` elsewhere.
      beta: of `dro`.
      mismatch: weight of each token of the policy loss by pi_old/mu, of `mismatch.MISMATCH`, or `none`.
      mismatch_low: lower bound of the kept pi_old/mu.
      mismatch_high: upper bound, or where pi_old/mu is held.
      rejected: `count`, a rejected token stays in divisor and KL (TRL, NeMo-RL); `leave`, it leaves both (verl).
      aggregation: of `aggregation.AGGREGATIONS`.
      max_tokens: Lmax of the aggregation `constant`.
      tokens_per_sequence: n of the aggregation `given_count`.
      reward_kl: beta of the KL in the reward: of the whole trajectory for an advantage per sequence; token by token,
        for itself and what follows, for an advantage per token.
      token_kl: beta of the own-token KL in the loss, with the same aggregation.
      kl_estimator: of `kl.LOSS_ESTIMATORS`, of the KL in the loss.
      entropy: coefficient of the entropy bonus, with the same aggregation.
      group_size: G, of the advantages that use a group; read for exact laws only.
      reward_support: values of the return, of `group_normalised` and `maxrl`; read for exact laws only.
      epsilon: added to the standard deviation by `group_normalised` and `gdpo`, to the mean by `maxrl`, to the
        variance by `whiten`.
      std_of: `group` or `batch`, whose standard deviation `group_normalised` divides by.
      ddof: that standard deviation is over n - ddof: 0, or 1 as in TRL and verl; of `group_normalised` and `gdpo`.
      std_floor: least standard deviation, of `group_normalised`.
      positive_weight: lambda of `psr_nsr`.
      threshold: least return of a success, of `psr_nsr`.
      discount: gamma per token, of the advantages per token.
      gae_lambda: of `gae`.
      whiten: whiten the advantages over all tokens of the batch; of `returns_to_go` and `gae`.

    Raises:
      InputError: for an unknown name, a missing field, or an option that the advantage or the clip rule does not have.
    """
    of_advantage = {
        "group_size": group_size,
        "reward_support": reward_support,
        "epsilon": epsilon,
        "std_of": std_of,
        "ddof": ddof,
        "std_floor": std_floor,
        "positive_weight": positive_weight,
        "threshold": threshold,
        "discount": discount,
        "gae_lambda": gae_lambda,
        "whiten": whiten,
    }
    given = {name: value for name, value in of_advantage.items() if value is not None}
    if isinstance(advantage, str):
        shaped = token_rewards_with_kl if advantage in advantages.TOKEN_ADVANTAGES else reward_with_kl
        A = advantages.advantage(advantage, shaped(traj, reward_kl), traj, **given)
    else:
        require(not given and is_zero(reward_kl), "advantage", "an array", "a name, where its options are given")
        A = jax.lax.stop_gradient(advantage)
    A_BxS = A[:, None] if A.ndim == 1 else A

    bounds = {"mismatch_low": mismatch_low, "mismatch_high": mismatch_high}
    require(rejected in ("count", "leave"), "rejected", rejected, ("count", "leave"))
    weight_BxS = None
    if mismatch == "none":
        taken("mismatch none", lambda: None, bounds)
    else:
        weight_BxS, kept_BxS = correction(mismatch, traj, **bounds)
        traj = without(traj, ~kept_BxS) if rejected == "leave" else traj

    value_BxS = token_loss(
        clip_rule,
        ratio,
        A_BxS,
        logp_BxS,
        traj,
        ratio_cap=ratio_cap,
        dual_clip=dual_clip,
        clip=clip,
        clip_high=clip_high,
        temperature=temperature,
        temperature_negative=temperature_negative,
        beta=beta,
    )
    if weight_BxS is not None:
        value_BxS = weight_BxS * value_BxS

    reduce = partial(
        aggregate, traj=traj, how=aggregation, max_tokens=max_tokens, tokens_per_sequence=tokens_per_sequence
    )
    total, count = reduce(value_BxS)
    if not is_zero(token_kl):
        total += token_kl * reduce(token_kl_of(logp_BxS, traj, kl_estimator))[0]
    if not is_zero(entropy):
        total += entropy * reduce(minus_entropy(logp_BxS, traj))[0]
    return total, count
