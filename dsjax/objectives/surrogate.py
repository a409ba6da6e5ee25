"""Reward objectives: one generic surrogate, and the named objectives as thin settings of it (others in `variants`).

The pieces are named and independent: an advantage (`advantages`), a ratio to the policy before the update and a clip
rule (`ratios`), a correction for the engine that sampled (`mismatch`), an aggregation (`aggregation`), and a KL in the
reward or in the loss (`kl`). The ascent direction of each objective is `sum_{i,t} c_it grad log pi(y_it)`; every
docstring gives its c on-policy (ratio 1) for B sequences of T_i loss tokens, N = sum_i T_i. With weights w_i in place
of 1/B the same holds on an exact law.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from dsjax.errors import require
from dsjax.objectives import advantages
from dsjax.objectives.aggregation import SumCount, aggregate
from dsjax.objectives.kl import is_zero, minus_entropy, reward_with_kl, token_rewards_with_kl
from dsjax.objectives.kl import token_kl as token_kl_of
from dsjax.objectives.mismatch import correction, without
from dsjax.objectives.options import taken
from dsjax.objectives.ratios import CLIP_RULES, RATIOS, token_loss
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

    of_rule = {
        "ratio_cap": ratio_cap,
        "dual_clip": dual_clip,
        "temperature": temperature,
        "temperature_negative": temperature_negative,
        "beta": beta,
    }
    require(clip_rule in CLIP_RULES, "clip_rule", clip_rule, CLIP_RULES)
    if ratio == "none":
        require(clip_rule == "none", "ratio", ratio, RATIOS)
        taken("ratio none", lambda: None, of_rule)
        value_BxS = -A_BxS * logp_BxS
    else:
        high = clip if clip_high is None else clip_high
        value_BxS = token_loss(clip_rule, ratio, A_BxS, logp_BxS, traj, clip=clip, clip_high=high, **of_rule)
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


class Named(partial):
    """An objective with other defaults, a name and words of its own; its options are those of `surrogate`."""

    __name__: str


def named(
    name: str,
    words: str,
    atlas: Mapping[str, Mapping[str, Any]] | None = None,
    like: Callable[..., SumCount] = surrogate,
    on_policy: str | None = None,
    **settings: Any,
) -> Named:
    """A registered objective that is a setting of `surrogate`.

    Args:
      name: of the objective.
      words: its docstring: loss, coefficient c, source.
      atlas: its rows in the atlas, {label: options}.
      like: the objective from which it differs in the settings.
      on_policy: the row of the atlas that its rows repeat, see `registry.register`.
      **settings: new defaults.

    Raises:
      TypeError: for a setting that `surrogate` does not have.
    """
    inspect.signature(like).bind(None, None, **settings)
    objective = Named(like, **settings)
    objective.__name__, objective.__doc__ = name, inspect.cleandoc(words)
    register(name, atlas, on_policy=on_policy)(objective)
    return objective


@register("reinforce", {"REINFORCE": {}})
def reinforce(
    logp_BxS: jax.Array, traj: Trajectories, *, baseline: str | jax.Array = "none", **options: Any
) -> SumCount:
    """REINFORCE: -A_i sum_t log pi(y_it), mean over sequences; c = A_i/B. Williams (1992).

    `baseline` is the advantage of `surrogate`: `none`, `batch_mean`, `leave_one_out` or any other. All other options
    of `surrogate` are options here.
    """
    return surrogate(logp_BxS, traj, advantage=baseline, **options)


_parameters = inspect.signature(surrogate).parameters.values()
reinforce.__dict__["__signature__"] = inspect.Signature(
    [p.replace(name="baseline") if p.name == "advantage" else p for p in _parameters]
)

rloo = named(
    "rloo",
    """REINFORCE with the leave-one-out baseline; c = A_i/B, A = R - mean of the others. Ahmadian et al. (2024).""",
    {"RLOO": {}},
    advantage="leave_one_out",
)
rloo_clipped = named(
    "rloo_clipped",
    """RLOO as in TRL: -min(rho_i A_i, clip(rho_i) A_i), rho_i the whole sequence's ratio; c = A_i/B.

    Mean over sequences. One clip for all tokens of a sequence: where it binds, pi_sample and pi_d lose it together.
    """,
    {"RLOO, clipped": {}},
    rloo,
    ratio="sequence",
    clip_rule="ppo",
    aggregation="sequence_mean",
)
grpo = named(
    "grpo",
    """GRPO: token ratios clipped, mean over tokens, then over sequences; c = A_i/(B T_i). Shao et al. (2024).

    -min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), rho = pi/pi_old, A = (R - mean)/(std + epsilon) of the group.
    """,
    {"GRPO": {}},
    advantage="group_normalised",
    ratio="token",
    clip_rule="ppo",
    aggregation="sequence_mean",
    kl_estimator="k3",
)
gspo = named(
    "gspo",
    """GSPO: GRPO with one ratio per sequence, the geometric mean of its tokens'; c = A_i/(B T_i). Zheng et al. (2025).

    The clip is that of the article: a mean over tokens moves far less than a token.
    """,
    {"GSPO": {}},
    grpo,
    ratio="geometric",
    clip=3e-4,
    clip_high=4e-4,
)
dapo = named(
    "dapo",
    """DAPO's loss: GRPO's advantage, mean over the tokens of the batch, higher upper clip; c = A_i/N. Yu et al. (2025).

    Its sampling rules (drop degenerate groups, punish overlong answers) are not part of the loss.
    """,
    {"DAPO": {}},
    grpo,
    clip_high=0.28,
    aggregation="token_mean",
)
dr_grpo = named(
    "dr_grpo",
    """Dr.GRPO: A = R - group mean, tokens over a constant; c = A_i/(B Lmax). Liu et al. (2025).

    Lmax = `max_tokens`, by default the length of the token axis. On-policy (G - 1)/G of RLOO over Lmax.
    """,
    {"Dr.GRPO": {"max_tokens": 2 * (1024 + 1)}},  # two rounds of the atlas's longest answers
    grpo,
    advantage="group_mean",
    aggregation="constant",
)
cispo = named(
    "cispo",
    """CISPO: -sg(clip(rho)) A log pi, mean over tokens; c = clip(rho_it) A_i/N off-policy too. MiniMax (2025).

    No lower clip by default, as in the article (`clip` = 1), and weights up to 5, a common choice.
    """,
    {"CISPO": {}},
    grpo,
    clip_rule="cispo",
    clip=1.0,
    clip_high=4.0,
    aggregation="token_mean",
)
ppo = named(
    "ppo",
    """PPO, clipped, with generalised advantages from `traj.values`; c = A_it/N. Schulman et al. (2017).

    `whiten=True` normalises the advantages over the batch, as verl and TRL do. The critic's loss: `critic.value_loss`.
    """,
    {"PPO, GAE 0.95": {"gae_lambda": 0.95}},
    advantage="gae",
    ratio="token",
    clip_rule="ppo",
    aggregation="token_mean",
)
reinforce_plus_plus = named(
    "reinforce_plus_plus",
    """REINFORCE++: returns-to-go, whitened over all tokens of the batch, in PPO's loss; c = A_it/N. Hu et al. (2025).

    `reward_kl` charges each token. The mean over tokens is a baseline weighted by length: (sum_i T_i R_i)/N without
    KL and discount.
    """,
    {"REINFORCE++": {}},
    ppo,
    advantage="returns_to_go",
    whiten=True,
)
biased_per_turn = named(
    "biased_per_turn",
    """REINFORCE with a baseline per turn, summed over the turns to go: BIASED for pi_d, offered to show it; c = A_it/B.

    See `token_advantages.biased_per_turn` for what it ascends instead of E[R].
    """,
    {"per-turn baseline": {}},
    advantage="biased_per_turn",
)
