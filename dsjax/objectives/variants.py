"""Named reward objectives of 2024 to 2026, as settings of those in `surrogate`.

The docstrings give the coefficient c on-policy, as there. Where a clip alone differs, c on-policy and with it the row
of the atlas is that of the objective it differs from.
"""

from __future__ import annotations

from dsjax.objectives.surrogate import dapo, grpo, gspo, named

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
