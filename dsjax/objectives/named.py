"""The named reward objectives: settings of `surrogate`, with their words and their rows of the atlas.

Every docstring gives the coefficient c on-policy (ratio 1) for B sequences of T_i loss tokens, N = sum_i T_i. With
weights w_i in place of 1/B the same holds on an exact law.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from dsjax.objectives.aggregation import SumCount
from dsjax.objectives.registry import register
from dsjax.objectives.surrogate import surrogate
from dsjax.trajectories import Trajectories


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
sapo = named(
    "sapo",
    """SAPO: GRPO with a soft clip, -A (4/tau) sigmoid(tau (rho - 1)); c = A_i/(B T_i). arXiv 2511.20347.

    tau = `temperature` (1.0) for A > 0 and `temperature_negative` (1.05) else. Mean over tokens, then over sequences,
    as in TRL and verl. Off-policy c has the factor 4 s (1 - s) rho, s the sigmoid: a soft clip on both sides.
    """,
    {"SAPO": {}},
    grpo,
    on_policy="GRPO",
    clip_rule="sapo",
)
gmpo = named(
    "gmpo",
    """GMPO: -A_i exp(mean_t l_it), l the log ratios, clipped token by token; c = A_i/(B T_i). arXiv 2507.20673.

    l = min(log rho, clip_high) for A > 0, max(log rho, -clip) else, 0.4 both. Mean over sequences: a clipped token
    loses its gradient alone, where GSPO's sequence loses it as a whole. verl `geo_mean`, for an advantage per sequence.
    """,
    {"GMPO": {}},
    grpo,
    on_policy="GRPO",
    clip_rule="gmpo",
    clip=0.4,
)
luspo = named(
    "luspo",
    """LUSPO: GSPO's loss times T_i; mean over sequences, c = A_i/B: GSPO's division by length undone. arXiv 2602.05261.

    In TRL the KL of the loss, if there is one, is divided by the width of the batch as well; here it is not.
    """,
    {"LUSPO": {}},
    gspo,
    aggregation="sequence_sum",
)
dppo_tv = named(
    "dppo_tv",
    """DPPO: -sg(min(rho, 20)) A log pi, unless pi has moved too far the way of A; c = A_i/N. arXiv 2602.04879.

    Dropped: A > 0 and pi - pi_old > clip_high, A < 0 and pi_old - pi > clip, 0.2 both; a dropped token stays in the
    divisor. Mean over tokens, as in verl, where the cap 20 is `clip_ratio_c`.
    """,
    {"DPPO, TV": {}},
    dapo,
    on_policy="DAPO",
    clip_rule="dppo_tv",
    clip_high=None,
    ratio_cap=20.0,
)
dppo_kl = named(
    "dppo_kl",
    """DPPO with the KL of the two-way split (token, all others) as its distance; c = A_i/N. arXiv 2602.04879.

    KL((pi_old, 1 - pi_old) || (pi, 1 - pi)) above `clip` (0.05) drops a token that has moved the way of A. verl adds
    1e-8 to both remainders 1 - pi; here they are computed from log pi.
    """,
    {"DPPO, KL": {}},
    dppo_tv,
    on_policy="DAPO",
    clip_rule="dppo_kl",
    clip=0.05,
)
gpg = named(
    "gpg",
    """GPG: -A log pi, A = alpha (R - group mean), mean over tokens; c = A_i/N. Chu et al. (2025), arXiv 2504.02546.

    alpha = rows / rows of groups whose returns differ, as in the article; verl counts rows with R != 0 instead.
    """,
    {"GPG": {}},
    advantage="gpg",
    aggregation="token_mean",
)
dro = named(
    "dro",
    """DRO: -(A log pi - (beta/2) log^2 rho), mean over tokens; c = (A_i - beta log rho_it)/N off-policy too.

    Direct Reward Optimisation, Richemond et al. (2024); per token and with GRPO's advantage as in verl.
    """,
    {"DRO": {}},
    dapo,
    on_policy="DAPO",
    clip_rule="dro",
    clip_high=None,
)
psr_nsr = named(
    "psr_nsr",
    """PSR and NSR: -A_i sum_t log pi, A = lambda where R >= threshold, else -1; c = A_i/B. arXiv 2506.01347.

    lambda = `positive_weight` (0.1, W-REINFORCE; 0 is NSR alone). Uncentred, but on-policy the constant -1 has no
    expected gradient: what is left is (1 + lambda) grad P(R >= threshold). The article's code takes the token mean.
    """,
    {"PSR and NSR": {}},
    advantage="psr_nsr",
)
