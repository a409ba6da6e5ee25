"""Reward objectives: one generic surrogate, and the named objectives as thin settings of it.

The pieces are named and independent: an advantage (`advantages`), a ratio to the policy that drew the tokens and a clip
rule (`ratios`), an aggregation (`aggregation`), and a KL in the reward or in the loss (`kl`). The ascent direction of
each objective is `sum_{i,t} c_it grad log pi(y_it)`; every docstring gives its c on-policy (ratio 1) for B sequences of
T_i loss tokens, N = sum_i T_i. With weights w_i in place of 1/B the same holds on an exact law.
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
from dsjax.objectives.ratios import CLIP_RULES, RATIOS
from dsjax.objectives.ratios import ratio as ratio_of
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
    aggregation: str = "sequence_sum",
    max_tokens: int | None = None,
    reward_kl: float | jax.Array = 0.0,
    token_kl: float | jax.Array = 0.0,
    kl_estimator: str = "k2",
    entropy: float | jax.Array = 0.0,
    group_size: int | None = None,
    reward_support: tuple[float, ...] | None = None,
    epsilon: float | None = None,
    discount: float | None = None,
    gae_lambda: float | None = None,
    whiten: bool | None = None,
) -> SumCount:
    """(sum, count) of the aggregated `-A log pi`, or of the clipped `-rho A`, plus KL and entropy terms.

    Args:
      logp_BxS: log-probs in nats.
      traj: trajectories; with `old_logp` for a ratio or a KL in the reward, `ref_logp` for a KL, `values` for GAE.
      advantage: a name of `advantages.ADVANTAGES`, or the advantages themselves, f[B] or f[B, S]. The latter lets
        micro-batches share statistics of the whole batch: compute them once, give each part its rows.
      ratio: `none` (-A log pi), `token`, `sequence` or `geometric`, see `ratios.ratio`.
      clip_rule: `none`, `ppo` or `cispo`, see `ratios.CLIP_RULES`; the last two need a ratio.
      clip: ratios are clipped at 1 - clip below, and at 1 + clip above unless `clip_high` is given.
      clip_high: upper clip.
      aggregation: `sequence_sum`, `sequence_mean`, `token_mean` or `constant`, see `aggregation`.
      max_tokens: Lmax of the aggregation `constant`.
      reward_kl: beta of the KL in the reward: of the whole trajectory for an advantage per sequence; token by token,
        for itself and what follows, for an advantage per token.
      token_kl: beta of the own-token KL in the loss, with the same aggregation.
      kl_estimator: `k1`, `k2`, `k3` or `k3_ratio`, of the KL in the loss.
      entropy: coefficient of the entropy bonus, with the same aggregation.
      group_size: G, of `group_mean`, `group_normalised`, `maxrl` and `opo`; read for exact laws only.
      reward_support: values of the return, of `group_normalised` and `maxrl`; read for exact laws only.
      epsilon: added to the standard deviation by `group_normalised`, to the mean by `maxrl`, to the variance by
        `whiten`.
      discount: gamma per token, of the advantages per token.
      gae_lambda: of `gae`.
      whiten: whiten the advantages over all tokens of the batch; of `returns_to_go` and `gae`.

    Raises:
      InputError: for an unknown name, a missing field, or an option that the advantage does not have.
    """
    named = {
        "group_size": group_size,
        "reward_support": reward_support,
        "epsilon": epsilon,
        "discount": discount,
        "gae_lambda": gae_lambda,
        "whiten": whiten,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if isinstance(advantage, str):
        shaped = token_rewards_with_kl if advantage in advantages.TOKEN_ADVANTAGES else reward_with_kl
        A = advantages.advantage(advantage, shaped(traj, reward_kl), traj, **given)
    else:
        require(not given and is_zero(reward_kl), "advantage", "an array", "a name, where its options are given")
        A = jax.lax.stop_gradient(advantage)
    A_BxS = A[:, None] if A.ndim == 1 else A

    require(clip_rule in CLIP_RULES, "clip_rule", clip_rule, CLIP_RULES)
    if ratio == "none":
        require(clip_rule == "none", "ratio", ratio, RATIOS)
        value_BxS = -A_BxS * logp_BxS
    else:
        if clip_rule != "none":
            no_lower_clip = clip == 1 and clip_rule == "cispo"
            require(0 < clip < 1 or no_lower_clip, "clip", clip, "0 < clip < 1; for cispo also 1, no lower clip")
            require(clip_high is None or clip_high > 0, "clip_high", clip_high, "> 0")
        high = clip if clip_high is None else clip_high
        rho_BxS = ratio_of(logp_BxS, traj, ratio)
        value_BxS = CLIP_RULES[clip_rule](rho_BxS, A_BxS, logp_BxS, 1 - clip, 1 + high)

    total, count = aggregate(value_BxS, traj, aggregation, max_tokens)
    if not is_zero(token_kl):
        kl_BxS = token_kl_of(logp_BxS, traj, kl_estimator)
        total += token_kl * aggregate(kl_BxS, traj, aggregation, max_tokens)[0]
    if not is_zero(entropy):
        total += entropy * aggregate(minus_entropy(logp_BxS, traj), traj, aggregation, max_tokens)[0]
    return total, count


class Named(partial):
    """An objective with other defaults, a name and words of its own; its options are those of `surrogate`."""

    __name__: str


def named(
    name: str,
    words: str,
    atlas: Mapping[str, Mapping[str, Any]] | None = None,
    like: Callable[..., SumCount] = surrogate,
    **settings: Any,
) -> Named:
    """A registered objective that is a setting of `surrogate`.

    Args:
      name: of the objective.
      words: its docstring: loss, coefficient c, source.
      atlas: its rows in the atlas, {label: options}.
      like: the objective from which it differs in the settings.
      **settings: new defaults.

    Raises:
      TypeError: for a setting that `surrogate` does not have.
    """
    inspect.signature(like).bind(None, None, **settings)
    objective = Named(like, **settings)
    objective.__name__, objective.__doc__ = name, inspect.cleandoc(words)
    register(name, atlas)(objective)
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
