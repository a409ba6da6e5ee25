"""The errors that are planted: one place each, a plausible slip that still runs.

Each names the theorems and tests that should notice it, the theorems first. An error that no check notices is a check
that is missing; an edit that changes no result (an equivalent program) does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One planted error.

    Attributes:
      id: short name.
      file: of the library, from the root of the repository.
      old: text that occurs exactly once in the file.
      new: what takes its place.
      wrong: what is wrong then, in words.
      theorems: ids whose checks are tried first.
      tests: pytest node ids that are tried next.
    """

    id: str
    file: str
    old: str
    new: str
    wrong: str
    theorems: tuple[str, ...]
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """The file's text with the error in it.

        Raises:
          ValueError: if the text to replace does not occur exactly once.
        """
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"mutation {self.id}: the text occurs {found} times in {self.file}, not once: {self.old}")
        return source.replace(self.old, self.new)


def _in(
    file: str, theorems: tuple[str, ...], tests: tuple[str, ...], *rows: tuple[str, str, str, str, dict]
) -> tuple[Mutation, ...]:
    """Mutations (id, old, new, wrong, other evidence) of one file, with that file's evidence by default."""
    return tuple(
        Mutation(name, file, old, new, wrong, other.get("theorems", theorems), other.get("tests", tests))
        for name, old, new, wrong, other in rows
    )


_ADVANTAGES = "tests/objectives/test_advantages.py"
_SAMPLED = f"{_ADVANTAGES}::test_sampled_groups_match_numpy"
_ON_LAW = f"{_ADVANTAGES}::test_exact_laws_match_every_group_written_out"
_FAR_OFF = "tests/objectives/test_objectives.py::test_far_off_policy"
_FOUND = "tests/test_mutants.py"  # what earlier mutation runs found missing
_KL = "tests/objectives/test_kl.py"
_REDUCTIONS = "tests/objectives/test_reductions.py"
_PREFERENCE = "tests/objectives/test_preference.py"
_TOKENS = "tests/objectives/test_token_advantages.py"
_OPTIONS = "tests/objectives/test_options.py"
_BY_NAME = "tests/objectives/test_advantage_options.py"
_ATTRIBUTION = "tests/test_attribution.py"
_LAW = "tests/objectives/test_law.py"
_ACCOUNTING = "tests/evaluation/test_accounting.py"
_SIGNAL = "tests/test_signal_noise.py"
_TRAJECTORIES = "tests/test_trajectories.py"
_THRESHOLDS = "tests/proofs_check/test_t16_thresholds.py"
_THREE_TERMS = f"{_THRESHOLDS}::test_three_terms_of_a_sampler_that_only_moves_between_wrong_answers"
_THREE_ROUNDS = "tests/test_process.py::test_weights_are_the_law_and_rewards_the_returns[V3-L1-T3-Q2-full-c0.15]"


def _coefficients(*variants: str) -> tuple[str, ...]:
    node = "tests/objectives/test_objectives.py::test_coefficients_are_the_closed_forms"
    return tuple(f"{node}[{variant}-False]" for variant in variants)


def _settings(*labels: str) -> tuple[str, ...]:
    return tuple(f"{_OPTIONS}::test_settings_have_the_coefficients_of_their_formula[{label}]" for label in labels)


def _process(*tests: str) -> tuple[str, ...]:
    return tuple(f"tests/test_process.py::test_{test}[V2-L2-T2-Q2-none-c0.15]" for test in tests)


MUTATIONS: tuple[Mutation, ...] = (
    *_in(
        "dsjax/objectives/advantages.py",
        ("T2",),
        (_SAMPLED,),
        (
            "loo-size",
            "jnp.maximum(size_B - 1.0, 1.0)",
            "jnp.maximum(size_B, 1.0)",
            "leave-one-out: mean of the others divided by G for G - 1",
            {"theorems": ("T14",)},
        ),
        (
            "loo-self",
            "(_group_sum(reward_B, traj)[traj.group] - reward_B)",
            "(_group_sum(reward_B, traj)[traj.group])",
            "leave-one-out: the trajectory's own return left in its baseline",
            {"theorems": ("T14",)},
        ),
        (
            "loo-exact-sign",
            "return reward_B - _group_mean(reward_B, traj)",
            "return reward_B + _group_mean(reward_B, traj)",
            "leave-one-out on an exact law: baseline added instead of subtracted",
            {},
        ),
        (
            "batch-mean-weights",
            "divide(jnp.sum(traj.weight * reward_B), jnp.sum(traj.weight))",
            "jnp.mean(reward_B)",
            "batch mean that ignores the law",
            {},
        ),
        (
            "group-mean-factor",
            "(group_size - 1) / group_size * leave_one_out(reward_B, traj)",
            "leave_one_out(reward_B, traj)",
            "group mean on an exact law without (G - 1)/G",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_mean-binary-3]",)},
        ),
        (
            "grpo-std-unbiased",
            "traj)[traj.group] / jnp.maximum(size_B - ddof, 1.0)",
            "traj)[traj.group] / (size_B - 1.0)",
            "GRPO: sample standard deviation (G - 1) for the population's (G)",
            {},
        ),
        (
            "grpo-exact-std-unbiased",
            "(spread_BxN + (reward_B[:, None] - mean_BxN) ** 2) / (group_size - ddof)",
            "(spread_BxN + (reward_B[:, None] - mean_BxN) ** 2) / (group_size - 1)",
            "GRPO on an exact law: sample standard deviation for the population's",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_normalised-binary-3]",)},
        ),
        (
            "grpo-exact-own-return",
            "(spread_BxN + (reward_B[:, None] - mean_BxN) ** 2) / (group_size - ddof)",
            "spread_BxN / (group_size - ddof)",
            "GRPO on an exact law: own return left out of the standard deviation",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_normalised-binary-3]",)},
        ),
        (
            "grpo-exact-group-size",
            "_compositions(group_size - 1, len(reward_support))",
            "_compositions(group_size, len(reward_support))",
            "GRPO on an exact law: G other members for G - 1",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_normalised-binary-3]",)},
        ),
        (
            "grpo-epsilon",
            "centred / (std + epsilon_)",
            "centred / std",
            "GRPO: epsilon not added to the standard deviation",
            {},
        ),
        (
            "grpo-dust",
            "dust_B = (2 * size_B",
            "dust_B = (0 * size_B",
            "GRPO: rounding dust of a degenerate group divided by itself",
            {"theorems": (), "tests": (f"{_ADVANTAGES}::test_degenerate_groups_give_exactly_zero",)},
        ),
        (
            "grpo-exact-dust",
            "dust = (2 * group_size",
            "dust = (0 * group_size",
            "GRPO on an exact law: rounding dust of equal returns divided by itself",
            {"theorems": (), "tests": (f"{_FOUND}::test_equal_returns_of_an_exact_law_give_exactly_zero",)},
        ),
        (
            "grpo-exact-prompt-mass",
            "law_QxK = divide(law_QxK, mass_Q[:, None])",
            "law_QxK = law_QxK / jnp.sum(mass_Q)",
            "GRPO on an exact law: joint law of prompt and return for the prompt's own",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_normalised-binary-3]",)},
        ),
        (
            "support-silent",
            "return jnp.where(self.covered, advantage_B, jnp.nan)",
            "return advantage_B",
            "GRPO on an exact law: a number for returns outside of the stated support",
            {"theorems": (), "tests": (f"{_ADVANTAGES}::test_mass_outside_of_the_reward_support[1e-08]",)},
        ),
        (
            "advantage-gradient",
            "return jax.lax.stop_gradient(ADVANTAGES[name](reward, traj, **options))",
            "return ADVANTAGES[name](reward, traj, **options)",
            "gradient flows through the advantage",
            {"theorems": (), "tests": (f"{_ADVANTAGES}::test_no_gradient_flows_through_an_advantage",)},
        ),
    ),
    *_in(
        "dsjax/objectives/aggregation.py",
        ("T1",),
        (f"{_REDUCTIONS}::test_aggregations",),
        (
            "sequence-sum-weights",
            "return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight)\n",
            "return jnp.sum(total_B), jnp.sum(traj.weight)\n",
            "sum over sequences without the law",
            {},
        ),
        (
            "sequence-mean-length",
            "traj.weight * total_B / jnp.maximum(traj.num_tokens, 1.0)",
            "traj.weight * total_B",
            "mean over sequences of sums: 1/T_i dropped",
            {"theorems": ("T13",)},
        ),
        (
            "token-mean-count",
            "jnp.sum(traj.weight * traj.num_tokens)",
            "jnp.sum(traj.weight)",
            "token mean divided by sequences for tokens",
            {"theorems": ("T2",)},
        ),
        (
            "constant-count",
            "return total, longest * mass",
            "return total, mass",
            "Lmax left out of the constant normaliser",
            {"theorems": ("T2",)},
        ),
        (
            "aggregation-mask",
            "return jnp.where(mask_BxS, value_BxS, 0.0)",
            "return value_BxS",
            "values outside of the masks kept",
            {
                "theorems": (),
                "tests": ("tests/objectives/test_objectives.py::test_nothing_leaks_from_behind_the_masks[reinforce]",),
            },
        ),
    ),
    *_in(
        "dsjax/objectives/kl.py",
        ("T6",),
        (f"{_KL}::test_estimates_are_their_closed_forms",),
        ("k2-half", "lambda x: 0.5 * x**2", "lambda x: x**2", "k2 = x^2 without its half", {}),
        (
            "k3-reversed",
            "return jnp.expm1(-x_BxS) + x_BxS",
            "return jnp.expm1(x_BxS) - x_BxS",
            "k3 of the inverted ratio",
            {"theorems": ("T7",)},
        ),
        (
            "k3-cap",
            "x_BxS = jnp.maximum(log_ratio_BxS, -LOG_RATIO_LIMIT)",
            "x_BxS = log_ratio_BxS",
            "k3 overflows far below the reference",
            {"theorems": ()},
        ),
        (
            "k3-ratio-gradient",
            'ratio(logp_BxS, traj, "token") * value_BxS',
            'jax.lax.stop_gradient(ratio(logp_BxS, traj, "token")) * value_BxS',
            "k3 times a ratio without its gradient: the forward KL for the reverse one",
            {"theorems": ("T7",), "tests": (f"{_KL}::test_expected_gradient_of_own_token_kl[k3_ratio]",)},
        ),
        (
            "log-ratio-sign",
            'masked(logp_BxS - recorded(traj, "ref_logp"), traj.mask)',
            'masked(recorded(traj, "ref_logp") - logp_BxS, traj.mask)',
            "log pi_ref/pi for log pi/pi_ref",
            {"tests": (f"{_KL}::test_log_ratio_is_zero_and_flat_behind_the_masks",)},
        ),
        (
            "reward-kl-sign",
            "jax.lax.stop_gradient(traj.reward - beta * drift_B)",
            "jax.lax.stop_gradient(traj.reward + beta * drift_B)",
            "KL added to the return for a penalty",
            {"theorems": ("T2",), "tests": (f"{_KL}::test_reward_with_kl_is_data",)},
        ),
        (
            "token-reward-kl-sign",
            "jax.lax.stop_gradient(reward_BxS - beta * log_ratio",
            "jax.lax.stop_gradient(reward_BxS + beta * log_ratio",
            "KL added to the token's reward for a penalty",
            {"theorems": (), "tests": _coefficients("reinforce, KL token by token")},
        ),
    ),
    *_in(
        "dsjax/objectives/ratios.py",
        ("T15",),
        _coefficients("grpo", "grpo, asymmetric clip", "gspo, wide clip"),
        (
            "ratio-inverted",
            'masked(logp_BxS - recorded(traj, "old_logp"), traj.mask)',
            'masked(recorded(traj, "old_logp") - logp_BxS, traj.mask)',
            "pi_old/pi for pi/pi_old",
            {},
        ),
        (
            "recorded-gradient",
            "return jax.lax.stop_gradient(x)",
            "return x",
            "gradient flows through the recorded log-probs",
            {"theorems": (), "tests": (f"{_REDUCTIONS}::test_reductions",)},
        ),
        (
            "ratio-cap",
            "jnp.exp(jnp.minimum(log_ratio_BxS, LOG_RATIO_LIMIT))",
            "jnp.exp(log_ratio_BxS)",
            "ratio overflows far off-policy",
            {"theorems": (), "tests": (f"{_FAR_OFF}[grpo-1000.0]",)},
        ),
        (
            "ppo-maximum",
            "-jnp.minimum(rho * A,",
            "-jnp.maximum(rho * A,",
            "clipped surrogate: the larger of the two for the smaller",
            {},
        ),
        (
            "ppo-no-lower-clip",
            "jnp.clip(rho, 1 - clip, 1 + clip_high) * A)",
            "jnp.minimum(rho, 1 + clip_high) * A)",
            "clipped surrogate without its lower clip",
            {},
        ),
        (
            "cispo-gradient",
            "-jax.lax.stop_gradient(jnp.clip(rho, 1 - clip, 1 + clip_high)) * A * logp",
            "-jnp.clip(rho, 1 - clip, 1 + clip_high) * A * logp",
            "CISPO: gradient flows through the clipped ratio",
            {"theorems": ("T20",), "tests": _coefficients("cispo")},
        ),
        (
            "geometric-length",
            "_summed(log_rho) / T",
            "_summed(log_rho)",
            "GSPO's ratio without the 1/T_i in the exponent",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/surrogate.py",
        ("T1",),
        _coefficients("reinforce"),
        (
            "surrogate-sign",
            "value_BxS = -A_BxS * logp_BxS",
            "value_BxS = A_BxS * logp_BxS",
            "REINFORCE descends the return",
            {},
        ),
        (
            "given-advantage-gradient",
            "A = jax.lax.stop_gradient(advantage)",
            "A = 1.0 * advantage",
            "gradient flows through advantages that are given",
            {
                "theorems": (),
                "tests": (f"{_FOUND}::test_advantages_that_are_given_are_data",),
            },
        ),
        (
            "kl-shaping",
            "shaped = token_rewards_with_kl if advantage in advantages.TOKEN_ADVANTAGES else reward_with_kl",
            "shaped = reward_with_kl",
            "KL of the whole trajectory paid at its last token, for advantages per token",
            {"theorems": (), "tests": _coefficients("reinforce, KL token by token")},
        ),
        (
            "token-kl-aggregation",
            "reduce(token_kl_of(logp_BxS, traj, kl_estimator))",
            'aggregate(token_kl_of(logp_BxS, traj, kl_estimator), traj, "sequence_sum")',
            "KL in the loss summed where the objective is a mean",
            {"theorems": (), "tests": _coefficients("grpo, both KL")},
        ),
        (
            "clip-high-ignored",
            "clip_high=high,",
            "clip_high=clip,",
            "upper clip taken from the lower one",
            {"theorems": (), "tests": (f"{_FOUND}::test_default_clips[dapo]",)},
        ),
        (
            "entropy-sign",
            "total += entropy * reduce",
            "total -= entropy * reduce",
            "entropy bonus lowers the entropy",
            {"theorems": (), "tests": _coefficients("reinforce, entropy")},
        ),
        (
            "dr-grpo-normaliser",
            'aggregation="constant"',
            'aggregation="sequence_sum"',
            "Dr.GRPO without its constant normaliser",
            {"theorems": ("T2",), "tests": _coefficients("dr_grpo")},
        ),
        (
            "gspo-token-ratio",
            'ratio="geometric"',
            'ratio="token"',
            "GSPO with token ratios",
            {"theorems": ("T15",), "tests": _coefficients("gspo, wide clip")},
        ),
        (
            "default-clip",
            "    clip: float = 0.2,\n",
            "    clip: float = 0.3,\n",
            "clip of 0.3 by default for 0.2",
            {"theorems": (), "tests": (*_coefficients("grpo"), f"{_FOUND}::test_default_clips[grpo]")},
        ),
        (
            "gspo-clip",
            "clip=3e-4,\n    clip_high=4e-4",
            "clip=4e-4,\n    clip_high=3e-4",
            "GSPO with its lower and upper clip swapped",
            {"theorems": (), "tests": (*_coefficients("gspo"), f"{_FOUND}::test_default_clips[gspo]")},
        ),
        (
            "dapo-clip-high",
            "clip_high=0.28",
            "clip_high=0.2",
            "DAPO with a symmetric clip",
            {"theorems": (), "tests": (*_coefficients("dapo"), f"{_FOUND}::test_default_clips[dapo]")},
        ),
        (
            "cispo-clip-high",
            "clip_high=4.0",
            "clip_high=0.28",
            "CISPO with DAPO's upper clip",
            {"theorems": (), "tests": (*_coefficients("cispo"), f"{_FOUND}::test_default_weights_of_cispo")},
        ),
    ),
    *_in(
        "dsjax/objectives/penalties.py",
        ("T6",),
        _coefficients("trajectory KL"),
        (
            "trajectory-kl-sign",
            "reward=jnp.zeros_like(traj.reward)), reward_kl=1.0)",
            "reward=jnp.zeros_like(traj.reward)), reward_kl=-1.0)",
            "trajectory KL ascends",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/kl.py",
        (),
        (f"{_KL}::test_expected_gradient_of_the_entropy_bonus",),
        (
            "entropy-score",
            "return once(logp_BxS) * logp_BxS",
            "return logp_BxS",
            "entropy bonus as the plain log-prob: no gradient in expectation",
            {"theorems": ("T20",)},
        ),
    ),
    *_in(
        "dsjax/objectives/supervised.py",
        ("T5",),
        _coefficients("sft, w = 3"),
        (
            "sft-weight-swapped",
            "jnp.where(traj.sample_mask, 1.0, jnp.where(traj.decision_mask, decision_weight, 0.0))",
            "jnp.where(traj.decision_mask, 1.0, jnp.where(traj.sample_mask, decision_weight, 0.0))",
            "SFT: decision weight on the answer tokens",
            {},
        ),
        (
            "sft-count",
            "count = jnp.sum(traj.weight * jnp.sum(m_BxS, axis=-1))",
            "count = jnp.sum(traj.weight * traj.num_tokens)",
            "SFT: weighted sum over an unweighted count",
            {},
        ),
        (
            "rft-threshold",
            "traj.reward >= threshold",
            "traj.reward > threshold",
            "RFT drops returns that just reach the threshold",
            {"theorems": ("T17",), "tests": (f"{_REDUCTIONS}::test_reductions",)},
        ),
        (
            "rft-weights",
            "kept = traj.replace(weight=traj.weight * kept_B)",
            "kept = traj.replace(weight=kept_B)",
            "RFT without the law of the trajectories",
            {
                "theorems": ("T17",),
                "tests": (
                    *_coefficients("rft"),
                    f"{_FOUND}::test_rft_follows_the_law",
                ),
            },
        ),
        (
            "dft-gradient",
            "-jax.lax.stop_gradient(jnp.exp(logp_BxS)) * logp_BxS",
            "-jnp.exp(logp_BxS) * logp_BxS",
            "DFT: gradient flows through its weight",
            {"theorems": (), "tests": _coefficients("dft")},
        ),
    ),
    *_in(
        "dsjax/objectives/preference.py",
        (),
        _coefficients("dpo", "ipo"),
        (
            "pairs-ties",
            "traj.reward[:, None] > traj.reward[None, :]",
            "traj.reward[:, None] >= traj.reward[None, :]",
            "ties, and a trajectory with itself, counted as pairs",
            {"tests": (f"{_PREFERENCE}::test_pairs",)},
        ),
        (
            "pairs-group-mass",
            "share_B = divide(traj.weight, mass)",
            "share_B = traj.weight",
            "the other trajectory weighed by its prompt's probability once more",
            {"tests": (f"{_PREFERENCE}::test_exact_law_is_the_expectation_over_independent_pairs[dpo]",)},
        ),
        ("dpo-sign", "log_sigmoid(gap)", "log_sigmoid(-gap)", "DPO prefers the worse one", {}),
        ("ipo-margin", "1 / (2 * beta)) ** 2", "1 / beta) ** 2", "IPO with twice the margin", {}),
    ),
    *_in(
        "dsjax/objectives/token_advantages.py",
        (),
        (f"{_TOKENS}::test_gae_with_exact_values",),
        (
            "gae-next-value",
            "discount * v_tp1 - v_t",
            "discount * v_t - v_t",
            "GAE: V_t for V_(t+1)",
            {},
        ),
        (
            "gae-lambda",
            "traj, discount, discount * gae_lambda)",
            "traj, discount, discount)",
            "GAE: lambda ignored",
            {},
        ),
        (
            "gae-discount",
            "traj, discount, discount * gae_lambda)",
            "traj, discount, gae_lambda)",
            "GAE: lambda for discount x lambda",
            {"tests": _coefficients("ppo")},
        ),
        (
            "reward-at-first-token",
            "axis=1, reverse=True)\n        return jnp.where(traj.mask & (from",
            "axis=1, reverse=False)\n        return jnp.where(traj.mask & (from",
            "return paid at the first drawn token for the last",
            {"theorems": ("T24",), "tests": (f"{_TOKENS}::test_rewards_are_paid_at_the_last_drawn_token",)},
        ),
        (
            "whiten-mask",
            "weight_BxS = jnp.where(traj.mask, traj.weight[:, None], 0.0)",
            "weight_BxS = jnp.broadcast_to(traj.weight[:, None], traj.mask.shape)",
            "whitening counts the padding",
            {"tests": (f"{_TOKENS}::test_whitening",)},
        ),
        (
            "per-turn-group",
            "index_BxS = traj.group[:, None] * S + traj.round",
            "index_BxS = 0 * traj.group[:, None] * S + traj.round",
            "baseline per turn pooled over prompts",
            {"tests": _coefficients("per turn")},
        ),
    ),
    *_in(
        "dsjax/objectives/critic.py",
        (),
        (f"{_TOKENS}::test_exact_values_are_conditional_means[2]", f"{_TOKENS}::test_value_loss"),
        (
            "exact-values-late",
            "jax.lax.cumsum(differs, axis=2) > differs",
            "jax.lax.cumsum(differs, axis=2) > 0",
            "exact values given the token itself: V_(t+1) for V_t",
            {},
        ),
        (
            "exact-values-prompt",
            "same = (traj.group[:, None] == traj.group[None, :])[..., None] & ~differs_before",
            "same = ~differs_before",
            "exact values pooled over prompts",
            {},
        ),
        (
            "value-clip-minimum",
            "jnp.maximum(loss_BxS,",
            "jnp.minimum(loss_BxS,",
            "critic: the smaller of plain and clipped loss",
            {"tests": (f"{_TOKENS}::test_value_loss",)},
        ),
        (
            "value-target",
            "traj, **options) + old_BxS",
            "traj, **options)",
            "critic fitted to the advantage for the return",
            {"tests": (f"{_TOKENS}::test_value_loss",)},
        ),
        (
            "value-discount",
            '"discount": discount,',
            '"discount": 1.0,',
            "critic's target undiscounted",
            {
                "tests": (
                    f"{_TOKENS}::test_value_loss",
                    f"{_FOUND}::test_the_critic_is_fitted_to_what_is_discounted_and_charged",
                )
            },
        ),
        (
            "value-reward-kl",
            "token_rewards_with_kl(traj, reward_kl)",
            "token_rewards_with_kl(traj, 0.0)",
            "critic's target without the KL in the reward",
            {
                "tests": (
                    f"{_TOKENS}::test_value_loss",
                    f"{_FOUND}::test_the_critic_is_fitted_to_what_is_discounted_and_charged",
                )
            },
        ),
    ),
    *_in(
        "dsjax/objectives/returns.py",
        ("T1",),
        (f"{_ATTRIBUTION}::test_reward_gradient_three_ways[reinforce]",),
        (
            "coefficient-sign",
            "jnp.where(traj.mask, -gradient_BxS, 0.0)",
            "jnp.where(traj.mask, gradient_BxS, 0.0)",
            "coefficients of descent for ascent",
            {},
        ),
        (
            "coefficient-mask",
            "jnp.where(traj.mask, -gradient_BxS, 0.0)",
            "-gradient_BxS",
            "coefficients on tokens that were never drawn",
            {
                "theorems": (),
                "tests": (*_coefficients("own"), f"{_FOUND}::test_tokens_that_were_never_drawn_have_no_coefficient"),
            },
        ),
        (
            "count-gradient",
            "count = jax.lax.stop_gradient(count)",
            "count = 1.0 * count",
            "gradient flows through the count of an objective",
            {"theorems": (), "tests": (*_coefficients("own"), f"{_FOUND}::test_the_count_of_an_objective_is_data")},
        ),
        (
            "loss-count",
            "return divide(total, count)",
            "return jnp.where(count > 0, total, 0.0)",
            "sum of the objective not divided by its count",
            {"theorems": ("T5",), "tests": (f"{_ATTRIBUTION}::test_sft_energy_is_the_chi_square_distance",)},
        ),
    ),
    *_in(
        "dsjax/objectives/given.py",
        (),
        (),
        (
            "given-option-of-the-user",
            "return None if option in options else option",
            "return option",
            "advantages of a file in the place of an option that the user gave",
            {
                "tests": (
                    "tests/rollouts/test_format.py::test_advantages_of_the_file_take_the_place_of_an_objectives_own",
                )
            },
        ),
    ),
    *_in(
        "dsjax/objectives/law.py",
        (),
        (),
        (
            "law-weights",
            "jnp.sum(traj.weight[:, None] * c_BxS *",
            "jnp.sum(c_BxS *",
            "a pasted loss on a law without the weights of its rows",
            {"tests": (f"{_LAW}::test_a_mean_over_equal_rows_is_weighted[token_mean-under_the_law]",)},
        ),
        (
            "law-accepts",
            "far <= tolerance:",
            "far >= 0:",
            "a loss with statistics of equal rows accepted on a law",
            {"tests": (f"{_LAW}::test_what_fits_no_law_is_refused_by_name[batch_mean]",)},
        ),
    ),
    *_in(
        "dsjax/attribution.py",
        ("T1",),
        (f"{_ATTRIBUTION}::test_reward_gradient_three_ways[reinforce]",),
        (
            "mean-coefficient",
            "c.sum(-1), w.sum(-1))",
            "c.sum(-1), drawn.weight)",
            "mean coefficient of a token over the number of trajectories",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_sft_energy_is_the_chi_square_distance",)},
        ),
        (
            "components-swapped",
            '"sample": traj.sample_mask, "decision": traj.decision_mask}',
            '"sample": traj.decision_mask, "decision": traj.sample_mask}',
            "the two components swapped",
            {},
        ),
        (
            "fisher-weights",
            "segment_sum(traj.weight[visits // slots],",
            "segment_sum(jnp.full(visits.size, jnp.mean(traj.weight)),",
            "Fisher matrix of the sampler without the law of the contexts",
            {"tests": (f"{_ATTRIBUTION}::test_fisher_is_the_second_moment_of_the_scores[shape1]",)},
        ),
        (
            "fisher-forced-stop",
            "weight_RxKxL1[..., :L], weight_RxKxL1[..., L]",
            "weight_RxKxL1[..., :L], weight_RxKxL1[..., 0]",
            "forced stop counted in the decider's Fisher matrix",
            {"tests": (f"{_ATTRIBUTION}::test_fisher_is_the_second_moment_of_the_scores[shape1]",)},
        ),
        (
            "fisher-total-weight",
            "rows.T @ (scale * rows) / jnp.sum(traj.weight)",
            "rows.T @ (scale * rows)",
            "Fisher matrix not divided by the total weight",
            {
                "theorems": (),
                "tests": (f"{_SIGNAL}::test_scale_of_the_weights_and_weightless_trajectories_do_not_matter",),
            },
        ),
        (
            "energy-cut",
            "jnp.sum(jnp.where(kept, projected**2 / jnp.where(kept, eigenvalues, 1.0), 0.0))",
            "jnp.sum(projected**2 / eigenvalues)",
            "energy without the cut of the pseudo-inverse",
            {"theorems": ("T3",), "tests": (f"{_ATTRIBUTION}::test_a_single_round_has_no_decisions",)},
        ),
        (
            "energy-scale",
            "jnp.where(seen, 1.0 / jnp.sqrt(jnp.where(seen, diagonal, 1.0)), 0.0)",
            "jnp.where(seen, 1.0, 0.0)",
            "rank cut without the scaling that keeps rare contexts",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_rarely_visited_contexts_still_count",)},
        ),
        (
            "energy-root",
            "jnp.where(kept, projected**2 / jnp.where",
            "jnp.where(kept, jnp.abs(projected) / jnp.where",
            "energy linear in the gradient",
            {"theorems": ("T3",), "tests": (f"{_ATTRIBUTION}::test_reward_energies[shape0]",)},
        ),
        (
            "share-odds",
            "share=share(E_d, E_s)",
            "share=ratio(E_d, E_s)",
            "decision share as odds",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_reward_energies[shape0]",)},
        ),
        (
            "block-share-odds",
            "block_share=share(",
            "block_share=ratio(",
            "block share as odds",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_sft_energy_is_the_chi_square_distance",)},
        ),
        (
            "euclidean-swapped",
            "share(dd, ss)",
            "share(ss, dd)",
            "Euclidean share of the sampler for the decider's",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_euclidean_columns",)},
        ),
    ),
    *_in(
        "dsjax/process.py",
        ("T3",),
        _process("weights_are_the_law_and_rewards_the_returns", "values_and_advantages_are_conditional_averages"),
        (
            "cost-dropped",
            " - self.cost * jnp.asarray(stop_B, dtype)",
            "",
            "resampling cost dropped from the return",
            {"theorems": ("T8",)},
        ),
        (
            "cost-off-by-one",
            "self.cost * jnp.asarray(stop_B, dtype)",
            "self.cost * jnp.asarray(stop_B + 1, dtype)",
            "return minus c tau for c (tau - 1)",
            {"theorems": ("T11",)},
        ),
        (
            "answers-reversed",
            "self.vocabulary ** np.arange(L)[::-1]",
            "self.vocabulary ** np.arange(L)",
            "answers spelt backwards",
            {"theorems": ("T4",), "tests": _process("enumeration_lists_every_trajectory_once_in_the_documented_order")},
        ),
        (
            "tables-mean",
            "logp_BxTxL1[:, t, : self.length].sum(-1)",
            "logp_BxTxL1[:, t, : self.length].mean(-1)",
            "log-probability of an answer as a mean over its tokens",
            {"theorems": ("T4",)},
        ),
        (
            "decision-swapped",
            "jnp.exp(tables.log_stop[t]) * payoff[t] + jnp.exp(tables.log_resample[t]) * next_V",
            "jnp.exp(tables.log_resample[t]) * payoff[t] + jnp.exp(tables.log_stop[t]) * next_V",
            "value recursion with pi_stop and pi_resample swapped",
            {"theorems": ("T1",)},
        ),
        (
            "advantage-stop",
            "stop.insert(0, payoff[t] - U_t)",
            "stop.insert(0, payoff[t] - next_V)",
            "advantage of STOP against going on for against the mean",
            {},
        ),
        (
            "advantage-sample",
            "tuple(u - v[..., None] for",
            "tuple(v[..., None] - u for",
            "advantage of an answer with its sign flipped",
            {"theorems": ("T2",)},
        ),
        (
            "next-value",
            "decision = spread(values.advantage_resample[t])",
            "decision = spread(values.V[t][..., None] - values.U[t])",
            "V_t for V_(t+1) in the advantage of RESAMPLE",
            {"theorems": ("T2",), "tests": _process("token_advantages_match_a_naive_loop")},
        ),
        (
            "visits-stop",
            "reached = answer[t] * jnp.exp(tables.log_resample[t])",
            "reached = answer[t] * jnp.exp(tables.log_stop[t])",
            "states visited after STOP for after RESAMPLE",
            {"tests": _process("visitation_is_the_mass_that_passes")},
        ),
        (
            "return-prompt-law",
            "jnp.sum(self.prompt_law * self.values(tables, payoff_B).V[0][:, 0])",
            "jnp.mean(self.values(tables, payoff_B).V[0][:, 0])",
            "expected return with uniform prompts",
            {"theorems": ("T1",), "tests": _process("expected_return_and_its_gradient")},
        ),
    ),
    *_in(
        "dsjax/trajectories.py",
        ("T1",),
        (f"{_TRAJECTORIES}::test_masks_follow_the_stopping_round",),
        (
            "forced-stop",
            "(round_K[None, :] < horizon - 1)",
            "(round_K[None, :] < horizon)",
            "forced stop of the last round counted as a decision",
            {},
        ),
        (
            "last-answer",
            "used_BxK = round_K[None, :] <= stop_Bx1",
            "used_BxK = round_K[None, :] < stop_Bx1",
            "round of the stop left out",
            {},
        ),
        (
            "stop-resample",
            "xp.where(round_K[None, :] < stop_Bx1, RESAMPLE, STOP)",
            "xp.where(round_K[None, :] < stop_Bx1, STOP, RESAMPLE)",
            "STOP and RESAMPLE swapped in the tokens",
            {"theorems": ("T8",)},
        ),
        (
            "law-mask",
            "log_law_B = jnp.sum(jnp.where(self.mask, logp_BxS, 0.0), axis=-1)",
            "log_law_B = jnp.sum(logp_BxS, axis=-1)",
            "law of a trajectory from padding as well",
            {
                "theorems": (),
                "tests": (f"{_TRAJECTORIES}::test_under_replaces_the_law_and_lets_no_gradient_through",),
            },
        ),
        (
            "law-gradient",
            "logp_BxS = jax.lax.stop_gradient(logp_BxS)",
            "logp_BxS = 1.0 * logp_BxS",
            "gradient flows through the law of the trajectories",
            {
                "theorems": (),
                "tests": (f"{_TRAJECTORIES}::test_under_replaces_the_law_and_lets_no_gradient_through",),
            },
        ),
        (
            "token-count",
            "jnp.sum(self.mask, axis=-1).astype",
            "jnp.sum(self.sample_mask, axis=-1).astype",
            "decision tokens not counted in T_i",
            {"theorems": ("T13",)},
        ),
        (
            "imitated",
            "used_BxK if imitated is None else used_BxK & imitated",
            "used_BxK",
            "answers that are only shown are imitated as well",
            {"theorems": (), "tests": (f"{_TRAJECTORIES}::test_answers_that_are_shown_but_not_imitated",)},
        ),
    ),
    *_in(
        "dsjax/evaluation/accounting.py",
        ("T10",),
        (f"{_ACCOUNTING}::test_accuracy_and_rounds_match_enumeration",),
        (
            "accuracy-rounds",
            "(*x.shape, rounds))",
            "(*x.shape, rounds + 1))",
            "zeta^T for zeta^(T-1) in the accuracy",
            {},
        ),
        (
            "accuracy-forced-stop",
            "p, a, b = arrays[0], *(xp.concatenate([x[..., :-1], one], axis=-1) for x in arrays[1:])",
            "p, a, b = arrays",
            "last attempt kept only if the decider agrees",
            {},
        ),
        (
            "accuracy-zeta",
            "zeta = 1.0 - p * a - (1.0 - p) * b",
            "zeta = 1.0 - p * a - p * b",
            "wrong attempts counted with p for 1 - p in zeta",
            {},
        ),
        ("mean-rounds", "* b), alive)))", "* b), alive[..., 1:])))", "E[tau] one round short", {}),
        (
            "log-odds-swapped",
            "xp.log(a / b)",
            "xp.log(b / a)",
            "limit of the log-odds with b/a for a/b",
            {"tests": (f"{_ACCOUNTING}::test_log_odds_add_up_in_the_limit",)},
        ),
        (
            "shapley-order",
            "sampler=0.5 * ((v10 - v00) + (v11 - v01))",
            "sampler=v10 - v00",
            "sampler's part from one order of swapping only",
            {"tests": (f"{_ACCOUNTING}::test_shapley_sums_to_the_total_and_is_symmetric",)},
        ),
        (
            "shapley-swapped",
            "v10, v01 = value(",
            "v01, v10 = value(",
            "sampler's and decider's parts swapped",
            {"tests": (f"{_ACCOUNTING}::test_shapley_of_a_sum_is_its_terms",)},
        ),
    ),
    *_in(
        "dsjax/attribution.py",
        ("T14",),
        (f"{_SIGNAL}::test_against_scores_and_pseudo_inverse[reinforce-options0-saturated]",),
        (
            "trajectory-coefficient",
            "k_BxS = divide(c_BxS, law_Bx1)",
            "k_BxS = c_BxS",
            "gradient of a trajectory times its probability",
            {},
        ),
        (
            "moment-weights",
            "jnp.sum(law_B * squares[1:])",
            "jnp.mean(squares[1:])",
            "second moment without the law",
            {},
        ),
        (
            "law-total",
            "law_Bx1 = (traj.weight / jnp.sum(traj.weight))[:, None]",
            "law_Bx1 = traj.weight[:, None]",
            "weights taken for a law without being normalised",
            {
                "theorems": (),
                "tests": (f"{_SIGNAL}::test_scale_of_the_weights_and_weightless_trajectories_do_not_matter",),
            },
        ),
        (
            "law-total-mean",
            "law_B = traj.weight / jnp.sum(traj.weight)\n",
            "law_B = traj.weight\n",
            "mean over trajectories by weights that are not normalised",
            {
                "theorems": (),
                "tests": (f"{_SIGNAL}::test_scale_of_the_weights_and_weightless_trajectories_do_not_matter",),
            },
        ),
        (
            "noise-sign",
            "self.moment_decision - self.signal_decision",
            "self.moment_decision + self.signal_decision",
            "noise M + S for M - S",
            {"theorems": ()},
        ),
        (
            "ratio-inverted-signal",
            "ratio(self.signal_decision, self.moment_decision)",
            "ratio(self.moment_decision, self.signal_decision)",
            "M/S for S/M",
            {},
        ),
    ),
    # Per round.
    *_in(
        "dsjax/process.py",
        ("T3",),
        _process("weights_are_the_law_and_rewards_the_returns", "values_and_advantages_are_conditional_averages"),
        (
            "cost-late-sign",
            "self.cost * jnp.asarray(stop_B, dtype)",
            "self.cost * jnp.asarray(np.where(stop_B < 2, stop_B, -stop_B), dtype)",
            "resampling cost with the wrong sign from round 3 on",
            {"theorems": ("T1", "T2", "T3"), "tests": (_THREE_ROUNDS,)},
        ),
        (
            "cost-once",
            "self.cost * jnp.asarray(stop_B, dtype)",
            "self.cost * jnp.asarray(np.minimum(stop_B, 1), dtype)",
            "resampling charged once for every time",
            {"theorems": ("T1", "T3"), "tests": (_THREE_ROUNDS,)},
        ),
        (
            "reward-first-answer",
            "last_B = answer_BxT[np.arange(len(stop_B)), stop_B]",
            "last_B = answer_BxT[:, 0]",
            "verifier reads the first answer for the last",
            {"theorems": ("T1",)},
        ),
        (
            "values-first-law",
            "jnp.exp(tables.log_sample[t]) * U[0]",
            "jnp.exp(tables.log_sample[0]) * U[0]",
            "sampler's law of round 1 in the values of all rounds",
            {"theorems": ("T1",)},
        ),
        (
            "advantage-first-value",
            "tuple(u - v[..., None] for u, v in zip(U, V, strict=True))",
            "tuple(u - V[0][..., None] for u in U)",
            "advantages of later answers against the value of round 1",
            {"theorems": ("T2", "T3")},
        ),
        (
            "stop-resample-round",
            "elif t == tau:",
            "elif t == tau and t > 0:",
            "STOP of round 1 with the advantage of RESAMPLE",
            {"theorems": ("T2",), "tests": _process("token_advantages_match_a_naive_loop")},
        ),
        (
            "visits-conditional",
            "history, answer = [self.prompt_law[:, None]], []",
            "history, answer = [jnp.ones_like(self.prompt_law)[:, None]], []",
            "visits given the prompt, its own probability left out",
            {"tests": _process("visitation_is_the_mass_that_passes")},
        ),
        (
            "visits-first-law",
            "answer.append(history[t][..., None] * jnp.exp(tables.log_sample[t]))",
            "answer.append(history[t][..., None] * jnp.exp(tables.log_sample[0]))",
            "visits of later answers under the sampler's law of round 1",
            {"tests": _process("visitation_is_the_mass_that_passes")},
        ),
    ),
    *_in(
        "dsjax/trajectories.py",
        ("T1",),
        (f"{_TRAJECTORIES}::test_masks_follow_the_stopping_round",),
        (
            "law-of-prompts",
            "weight=prompt_weight * jnp.exp(log_law_B)",
            "weight=jnp.exp(log_law_B) / self.num_groups",
            "law of the trajectories with all prompts equally likely",
            {"tests": (f"{_TRAJECTORIES}::test_under_replaces_the_law_and_lets_no_gradient_through",)},
        ),
        (
            "round-from-one",
            "np.repeat(np.arange(K, dtype=np.int32), L + 1)",
            "np.repeat(1 + np.arange(K, dtype=np.int32), L + 1)",
            "rounds of the tokens counted from 1",
            {"theorems": ("T19",)},
        ),
        (
            "two-rounds-no-decision",
            "(round_K[None, :] < horizon - 1)",
            "(round_K[None, :] < max(horizon - 1, 1))",
            "a decision drawn where there is one round",
            {},
        ),
    ),
    *_in(
        "dsjax/evaluation/accounting.py",
        ("T10",),
        (f"{_ACCOUNTING}::test_accuracy_and_rounds_match_enumeration",),
        (
            "alive-late",
            "alive = xp.cumprod(xp.concatenate([one, zeta[..., :-1]], axis=-1), axis=-1)",
            "alive = xp.cumprod(xp.concatenate([one, zeta[..., 1:]], axis=-1), axis=-1)",
            "a round reached by its own decision for that of the round before",
            {},
        ),
        (
            "kept-wrong-with-a",
            "alive * ((1.0 - p) * b)",
            "alive * ((1.0 - p) * a)",
            "wrong answers kept as often as right ones are",
            {"tests": (f"{_ACCOUNTING}::test_log_odds_add_up_in_the_limit",)},
        ),
        (
            "three-terms-swapped",
            "Terms(logit_p[1] - logit_p[0], mix, decider)",
            "Terms(logit_p[1] - logit_p[0], decider, mix)",
            "mix and decider swapped in the three terms",
            {"theorems": ("T22",), "tests": (_THREE_TERMS,)},
        ),
        (
            "three-terms-odds",
            "_, odds = limit_parts(a, a, b)",
            "odds, _ = limit_parts(a, a, b)",
            "three terms of logit(a) for log(a/b)",
            {"theorems": ("T22",), "tests": (_THREE_TERMS,)},
        ),
        (
            "three-terms-order",
            "lambda sampler, decider: odds[sampler, decider]",
            "lambda sampler, decider: odds[decider, sampler]",
            "three terms with the axes of sampler and decider exchanged",
            {"theorems": ("T22",), "tests": (_THREE_TERMS,)},
        ),
        (
            "shapley-decider-order",
            "decider=0.5 * ((v01 - v00) + (v11 - v10))",
            "decider=v11 - v10",
            "decider's part from one order of swapping only",
            {"tests": (f"{_ACCOUNTING}::test_shapley_sums_to_the_total_and_is_symmetric",)},
        ),
    ),
    *_in(
        "dsjax/evaluation/regret.py",
        ("T16",),
        (_THRESHOLDS,),
        (
            "regret-sides",
            "xp.where(q < V, q * (V - q), (1 - q) * (q - V))",
            "xp.where(q < V, (1 - q) * (V - q), q * (q - V))",
            "regret weighed by how often the imitator is right to stop",
            {},
        ),
        (
            "regret-threshold",
            "xp.where((q > 0.5) == (q >= V), 0.0, abs(q - V))",
            "xp.where((q > 0.5) == (q >= 1 - V), 0.0, abs(q - V))",
            "greedy regret with a threshold of 1 - V",
            {},
        ),
        (
            "regret-mean",
            "visits * of_imitation(q, V)",
            "visits / visits.sum() * of_imitation(q, V)",
            "regret of a table per visit for per episode",
            {},
        ),
    ),
    *_in(
        "dsjax/evaluation/mixture.py",
        ("T17",),
        ("tests/proofs_check/test_theorems.py::test_holds_and_rejects_its_controls[T17]",),
        ("mixture-guess", "return p + (1 - p) * s", "return p + s - p * p * s", "guesses counted beside the chain", {}),
        (
            "mixture-once",
            "return p / accuracy(p, s)",
            "return p / (p + s)",
            "successes of a guess for every attempt",
            {},
        ),
        (
            "mixture-stop",
            "return (1 - p) * s / accuracy(p, s)",
            "return (1 - p) / (p + 1 - p)",
            "a decider that takes all first answers for guesses",
            {},
        ),
        ("mixture-greedy", "return s / (1 + s)", "return s / (1 + 2 * s)", "greedy threshold a guess too low", {}),
        (
            "mixture-gradient",
            "return p * (1 - p) * (1 - s)",
            "return p * (1 - p)",
            "reward gradient as if guesses were never right",
            {},
        ),
    ),
    # Per component.
    *_in(
        "dsjax/objectives/kl.py",
        ("T6",),
        (f"{_KL}::test_estimates_are_their_closed_forms",),
        (
            "k3-decisions-inverted",
            "    return differentiated(estimate(log_ratio(logp_BxS, traj), value), logp_BxS, traj)\n",
            "    x_BxS = log_ratio(logp_BxS, traj)\n"
            '    flip_BxS = traj.decision_mask & (estimator == "k3")\n'
            "    return differentiated(estimate(jnp.where(flip_BxS, -x_BxS, x_BxS), value), logp_BxS, traj)\n",
            "k3 of the inverted ratio on decisions only",
            {"theorems": ("T7",), "tests": (f"{_KL}::test_expected_gradient_of_own_token_kl[k3]",)},
        ),
        (
            "log-ratio-answers",
            'masked(logp_BxS - recorded(traj, "ref_logp"), traj.mask)',
            'masked(logp_BxS - recorded(traj, "ref_logp"), traj.sample_mask)',
            "KL to the reference of the answers alone",
            {},
        ),
        (
            "reward-kl-answers",
            'drift_B = jnp.sum(log_ratio(recorded(traj, "old_logp"), traj), axis=-1)',
            'drift_B = jnp.sum(masked(log_ratio(recorded(traj, "old_logp"), traj), traj.sample_mask), axis=-1)',
            "KL in the return of the answers alone",
            {"theorems": ("T7",), "tests": (f"{_KL}::test_reward_with_kl_is_data",)},
        ),
        (
            "reward-kl-mean",
            'drift_B = jnp.sum(log_ratio(recorded(traj, "old_logp"), traj), axis=-1)',
            'drift_B = jnp.sum(log_ratio(recorded(traj, "old_logp"), traj), axis=-1) / traj.num_tokens',
            "KL in the return as a mean over tokens",
            {"theorems": ("T2",), "tests": (f"{_KL}::test_reward_with_kl_is_data",)},
        ),
    ),
    *_in(
        "dsjax/objectives/aggregation.py",
        ("T13",),
        (f"{_REDUCTIONS}::test_aggregations",),
        (
            "sequence-mean-answers",
            "traj.weight * total_B / jnp.maximum(traj.num_tokens, 1.0)",
            "traj.weight * total_B / jnp.maximum(jnp.sum(traj.sample_mask, axis=-1).astype(total_B.dtype), 1.0)",
            "mean over a sequence's answer tokens only",
            {},
        ),
        (
            "token-mean-answers",
            "jnp.sum(traj.weight * traj.num_tokens)",
            "jnp.sum(traj.weight * jnp.sum(traj.sample_mask, axis=-1).astype(total_B.dtype))",
            "token mean over answer tokens only",
            {"theorems": ("T2",)},
        ),
        (
            "sequence-sum-count",
            "return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight)\n",
            "return jnp.sum(traj.weight * total_B), jnp.ones((), total_B.dtype)\n",
            "mean over sequences with a count of 1 for the total weight",
            {"theorems": ("T2",)},
        ),
        (
            "sequence-sum-answers",
            "return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight)\n",
            "total_B = jnp.sum(masked(value_BxS, traj.sample_mask), axis=-1)\n"
            "    return jnp.sum(traj.weight * total_B), jnp.sum(traj.weight)\n",
            "sum over the answer tokens of a sequence",
            {"theorems": ("T1",)},
        ),
    ),
    *_in(
        "dsjax/objectives/surrogate.py",
        ("T7",),
        _coefficients("grpo, both KL"),
        (
            "token-kl-sign",
            "total += token_kl * ",
            "total -= token_kl * ",
            "KL in the loss rewarded",
            {},
        ),
        (
            "reward-kl-ignored",
            "shaped(traj, reward_kl)",
            "shaped(traj, 0.0)",
            "KL in the return left out",
            {"theorems": ("T2",)},
        ),
        (
            "kl-estimator-ignored",
            "token_kl_of(logp_BxS, traj, kl_estimator)",
            'token_kl_of(logp_BxS, traj, "k2")',
            "KL in the loss by k2 whatever is asked for",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/ratios.py",
        ("T15",),
        _coefficients("grpo, asymmetric clip", "gspo, wide clip"),
        (
            "geometric-answers",
            "RATIOS[kind](log_rho_BxS, jnp.maximum(traj.num_tokens, 1.0)[:, None])",
            "RATIOS[kind](log_rho_BxS, jnp.sum(traj.sample_mask, -1).astype(log_rho_BxS.dtype)[:, None])",
            "GSPO's exponent over answer tokens only",
            {},
        ),
        (
            "ratio-answers",
            'masked(logp_BxS - recorded(traj, "old_logp"), traj.mask)',
            'masked(logp_BxS - recorded(traj, "old_logp"), traj.sample_mask)',
            "decisions taken for on-policy: no ratio and no gradient",
            {"theorems": ("T2",)},
        ),
    ),
    *_in(
        "dsjax/objectives/supervised.py",
        ("T5",),
        _coefficients("sft, w = 3"),
        (
            "sft-stop-only",
            "jnp.where(traj.decision_mask, decision_weight, 0.0)",
            "jnp.where(traj.decision_mask & (traj.tokens == 0), decision_weight, 0.0)",
            "SFT does not imitate RESAMPLE",
            {},
        ),
        (
            "sft-sum-weight",
            "return sft(logp_BxS, traj, decision_weight=decision_weight, aggregation=",
            "return sft(logp_BxS, traj, aggregation=",
            "weight of the decisions dropped from SFT's sum",
            {"theorems": (), "tests": _coefficients("sft, sequence sum")},
        ),
        (
            "rft-below",
            "traj.reward >= threshold",
            "traj.reward < threshold",
            "RFT keeps what fails",
            {"theorems": ("T17",), "tests": _coefficients("rft")},
        ),
        (
            "dft-answers",
            "-jax.lax.stop_gradient(jnp.exp(logp_BxS)) * logp_BxS",
            "-jnp.where(traj.sample_mask, jax.lax.stop_gradient(jnp.exp(logp_BxS)), 1.0) * logp_BxS",
            "DFT's weight on answers only",
            {"theorems": (), "tests": _coefficients("dft")},
        ),
    ),
    *_in(
        "dsjax/attribution.py",
        ("T1",),
        (f"{_ATTRIBUTION}::test_fisher_is_the_second_moment_of_the_scores[shape1]",),
        (
            "fisher-first-round",
            "visits = np.flatnonzero(mask_BxKxL1)",
            "visits = np.flatnonzero(mask_BxKxL1 | (np.arange(length + 1) < length))",
            "Fisher matrix of the sampler counts rounds that were never reached",
            {},
        ),
        (
            "fisher-decider-uniform",
            "outer(weight_d, log_d, jac_d)",
            "outer(weight_d, jnp.full_like(log_d, -jnp.log(2.0)), jac_d)",
            "Fisher matrix of the decider as if it tossed a coin",
            {},
        ),
        (
            "answer-sum",
            "k_BxS = divide(by_answer(divide(c_BxS, w_B[:, None]), drawn), length_BxS)",
            "k_BxS = by_answer(divide(c_BxS, w_B[:, None]), drawn)",
            "a factor's coefficient as the sum over its tokens",
            {"theorems": (), "tests": (f"{_ATTRIBUTION}::test_sft_energy_is_the_chi_square_distance",)},
        ),
        (
            "signal-unweighted",
            "mean_1xP = jnp.sum(law_B[:, None] * g_BxP, axis=0, keepdims=True)",
            "mean_1xP = jnp.mean(g_BxP, axis=0, keepdims=True)",
            "signal of the unweighted mean gradient",
            {
                "theorems": ("T14",),
                "tests": (f"{_SIGNAL}::test_against_scores_and_pseudo_inverse[reinforce-options0-saturated]",),
            },
        ),
    ),
    # Per group.
    *_in(
        "dsjax/objectives/advantages.py",
        ("T2",),
        (_SAMPLED,),
        (
            "group-size-mean",
            "return _group_sum(jnp.ones_like(traj.group), traj)[traj.group].astype(dtype)",
            "return jnp.full(traj.group.shape, traj.group.shape[0] / traj.num_groups, dtype)",
            "every group as large as groups are on average",
            {},
        ),
        (
            "loo-exact-batch",
            "return reward_B - _group_mean(reward_B, traj)",
            "return reward_B - divide(jnp.sum(traj.weight * reward_B), jnp.sum(traj.weight))",
            "leave-one-out on an exact law: over the batch for the prompt",
            {},
        ),
        (
            "loo-batch",
            "others_B = (_group_sum(reward_B, traj)[traj.group] - reward_B) / jnp.maximum(size_B - 1.0, 1.0)",
            "others_B = (jnp.sum(reward_B) - reward_B) / (reward_B.size - 1.0)",
            "leave-one-out over the batch for the prompt",
            {},
        ),
        (
            "group-mean-unweighted",
            "total, mass = _group_sum(traj.weight * x_B, traj), _group_sum(traj.weight, traj)",
            "total, mass = _group_sum(x_B, traj), _group_sum(jnp.ones_like(x_B), traj)",
            "mean over a prompt's trajectories without their law",
            {},
        ),
        (
            "grpo-batch-std",
            "_group_sum(centred_B * centred_B, traj)[traj.group] /",
            "jnp.sum(centred_B * centred_B) / traj.num_groups /",
            "GRPO with a standard deviation pooled over groups",
            {},
        ),
        (
            "grpo-variance",
            "jnp.sqrt(jnp.where(positive, variance, 1.0))",
            "jnp.where(positive, variance, 1.0)",
            "GRPO divides by the variance",
            {"theorems": ("T2", "T12")},
        ),
        (
            "grpo-pooled-law",
            "law_QxK = divide(law_QxK, mass_Q[:, None])",
            "law_QxK = jnp.broadcast_to(jnp.sum(law_QxK, 0, keepdims=True) / jnp.sum(mass_Q), law_QxK.shape)",
            "GRPO on an exact law: success rate pooled over prompts",
            {"theorems": ("T12",), "tests": (f"{_ON_LAW}[group_normalised-binary-3]",)},
        ),
    ),
    *_in(
        "dsjax/objectives/advantages.py",
        ("T23",),
        (f"{_ADVANTAGES}::test_opo_on_an_exact_law_matches_every_group_written_out", f"{_ON_LAW}[maxrl-binary-3]"),
        (
            "maxrl-own",
            "members.expected(over_mean(reward_B[:, None], members.mean, dust))",
            "members.expected(over_mean(0.0 * reward_B[:, None], members.mean, dust))",
            "MaxRL on an exact law without the member's own return",
            {},
        ),
        (
            "opo-own",
            "divide(own_BxN + paid_QxN[traj.group], total_BxN)",
            "divide(paid_QxN[traj.group], total_BxN)",
            "OPO on an exact law: own return left out of its baseline",
            {},
        ),
        (
            "opo-length",
            "total_BxN = tokens_B[:, None] + jnp.arange(size",
            "total_BxN = 1.0 + jnp.arange(size",
            "OPO on an exact law: own length left out of the group's",
            {},
        ),
        (
            "opo-others",
            "jnp.fft.irfft(length**others, size)",
            "jnp.fft.irfft(length**group_size, size)",
            "OPO on an exact law: G others for G - 1",
            {},
        ),
        (
            "members-mean",
            "mean_BxN = (others_sum_N[None] + reward_B[:, None]) / group_size",
            "mean_BxN = jnp.broadcast_to(others_sum_N[None], (reward_B.size, others_sum_N.size)) / (group_size - 1)",
            "groups of an exact law: mean of the others for that of all",
            {"theorems": ("T12",)},
        ),
    ),
    *_in(
        "dsjax/attribution.py",
        ("T21",),
        (f"{_ATTRIBUTION}::test_natural_step_solves_and_brings_the_energy",),
        (
            "natural-step-scale",
            "unravel(scale * (vectors @ jnp.where",
            "unravel((vectors @ jnp.where",
            "natural step in the scaled parameters",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/preference.py",
        (),
        (f"{_PREFERENCE}::test_pairs",),
        (
            "pairs-across-prompts",
            "(traj.group[:, None] == traj.group[None, :]) & (traj.reward",
            "(traj.reward",
            "pairs of trajectories of different prompts",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/token_advantages.py",
        (),
        (f"{_TOKENS}::test_whitening",),
        (
            "per-turn-reached",
            "reached = total(jnp.ones_like(reward_BxS), last_BxS)",
            "reached = total(jnp.ones_like(reward_BxS), traj.mask)",
            "baseline per turn divided by tokens for trajectories",
            {"tests": _coefficients("per turn")},
        ),
        (
            "returns-undiscounted",
            "A_BxS = _backward(reward_BxS, jnp.zeros_like(reward_BxS), traj, discount, discount)",
            "A_BxS = _backward(reward_BxS, jnp.zeros_like(reward_BxS), traj, discount, 1.0)",
            "returns-to-go without their discount",
            {"theorems": ("T24",), "tests": _coefficients("reinforce++, KL")},
        ),
    ),
    # Ill-conditioned.
    *_in(
        "dsjax/attribution.py",
        ("T3",),
        (f"{_ATTRIBUTION}::test_energy_of_nearly_collinear_features",),
        (
            "energy-wide-cut",
            "eigenvalues > cut",
            "eigenvalues > 1e-2 * eigenvalues[-1]",
            "energy with a rank cut of 1% of the largest eigenvalue",
            {},
        ),
        (
            "energy-float32-cut",
            "eigenvalues > cut",
            "eigenvalues > 2.0**29 * cut",
            "energy with the rank cut of float32",
            {},
        ),
        (
            "energy-ridge",
            "projected**2 / jnp.where(kept, eigenvalues, 1.0)",
            "projected**2 / jnp.where(kept, eigenvalues + 1e-8, 1.0)",
            "energy with a ridge of 1e-8 for a pseudo-inverse",
            {},
        ),
        (
            "energy-no-scale",
            "_eigh(fisher_PxP * scale[:, None] * scale[None, :])",
            "_eigh(fisher_PxP)",
            "energy of the scaled gradient in the unscaled Fisher matrix",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/mismatch.py",
        (),
        _settings("token_truncate, count", "sequence_mask, count", "geometric_drop, leave"),
        (
            "mismatch-inverted",
            'recorded(traj, "old_logp") - recorded(traj, "sampler_logp")',
            'recorded(traj, "sampler_logp") - recorded(traj, "old_logp")',
            "mu/pi_old for pi_old/mu",
            {},
        ),
        (
            "mismatch-untruncated",
            "jnp.minimum(w, mismatch_high)",
            "w",
            "truncated importance sampling without its truncation",
            {},
        ),
        ("mismatch-no-floor", "(w >= low) & (w <= high)", "w <= high", "masks without their lower bound", {}),
        (
            "mismatch-drop-weights",
            "Correction(kept.astype(w.dtype), kept)",
            "Correction(jnp.where(kept, w, 0.0), kept)",
            "a row that is kept by its geometric mean is weighted by it too",
            {},
        ),
        (
            "rejected-decisions-stay",
            "traj.decision_mask & ~rejected",
            "traj.decision_mask",
            "rejected decisions stay where rejected tokens leave the divisor",
            {"tests": _settings("token_mask, leave")},
        ),
    ),
    *_in(
        "dsjax/objectives/options.py",
        (),
        (f"{_OPTIONS}::test_bad_options_name_the_field[option of clip_rule ppo-options6]",),
        ("option-unchecked", "for name in given:", "for name in ():", "an option that a piece lacks is dropped", {}),
    ),
    *_in(
        "dsjax/objectives/variants.py",
        (),
        (f"{_FOUND}::test_default_clips[gmpo]", f"{_FOUND}::test_default_clips[dppo_tv]"),
        ("gmpo-clip", "clip=0.4", "clip=0.2", "GMPO with GRPO's clip", {}),
        (
            "dppo-clip-high",
            "    clip_high=None,\n    ratio_cap",
            "    ratio_cap",
            "DPPO with DAPO's upper clip as its distance",
            {},
        ),
        (
            "luspo-mean",
            'aggregation="sequence_sum"',
            'aggregation="sequence_mean"',
            "LUSPO with GSPO's division by length",
            {"tests": _coefficients("luspo")},
        ),
    ),
    *_in(
        "dsjax/objectives/ratios.py",
        (),
        _coefficients("sapo", "gmpo", "dppo, TV", "dppo, KL", "dro"),
        ("sapo-scale", "-A * (4 / tau)", "-A * (2 / tau)", "SAPO at half of its scale", {}),
        (
            "sapo-temperatures",
            "jnp.asarray(temperature, A.dtype), jnp.asarray(temperature_negative, A.dtype)",
            "jnp.asarray(temperature_negative, A.dtype), jnp.asarray(temperature, A.dtype)",
            "SAPO with its temperatures swapped",
            {},
        ),
        (
            "gmpo-both-sides",
            "jnp.where(A > 0, jnp.minimum(log_rho, clip_high), jnp.maximum(log_rho, -clip))",
            "jnp.clip(log_rho, -clip, clip_high)",
            "GMPO clipped on both sides, whatever the sign",
            {},
        ),
        (
            "dppo-both-ways",
            "(moved <= 0) | (distance <= high)",
            "distance <= high",
            "DPPO drops a token that moved the other way",
            {},
        ),
        (
            "dppo-one-sided-kl",
            "jnp.exp(old) * (old - new) + jnp.where(some, rest_old * rest, 0.0)",
            "jnp.exp(old) * (old - new)",
            "DPPO's KL without the rest of the vocabulary",
            {},
        ),
        ("dro-half", "0.5 * beta * log_rho**2", "beta * log_rho**2", "DRO's spring of twice its strength", {}),
        (
            "dual-clip-sign",
            "jnp.where(A < 0, jnp.minimum(loss, -dual_clip * A), loss)",
            "jnp.minimum(loss, -dual_clip * A)",
            "dual clip for positive advantages too",
            {"tests": _settings("dual clip")},
        ),
        (
            "ratio-uncapped",
            "rho = jnp.minimum(rho, ratio_cap)",
            "rho = rho + 0.0",
            "the cap of the ratio ignored",
            {"tests": _settings("ratio cap")},
        ),
    ),
    *_in(
        "dsjax/objectives/kl.py",
        (),
        _settings("KL k3+", "KL k2_score"),
        (
            "kl-straight-through",
            "(k2_BxS - jax.lax.stop_gradient(k2_BxS))",
            "0.0 * k2_BxS",
            "a straight-through KL without a gradient",
            {},
        ),
        (
            "kl-score",
            "return once(masked(logp_BxS, traj.mask)) * value_BxS",
            "return value_BxS",
            "the score function of the KL dropped",
            {},
        ),
    ),
    *_in(
        "dsjax/objectives/aggregation.py",
        (),
        (f"{_REDUCTIONS}::test_aggregations",),
        ("given-count", "tokens_per_sequence * mass", "mass", "the caller's count left out", {"theorems": ("T2",)}),
        (
            "nonempty-count",
            "jnp.where(traj.num_tokens > 0, traj.weight, 0.0)",
            "traj.weight",
            "empty sequences counted where they should not be",
            {},
        ),
        (
            "prompt-law",
            "mass_Q if traj.exact else (mass_Q > 0).astype(mass_Q.dtype)",
            "(mass_Q > 0).astype(mass_Q.dtype)",
            "prompts of an exact law counted alike",
            {"theorems": ("T2",)},
        ),
    ),
    *_in(
        "dsjax/objectives/advantages.py",
        (),
        (
            f"{_BY_NAME}::test_standard_deviations_of_samples",
            f"{_BY_NAME}::test_laws_match_every_group_written_out[binary]",
        ),
        (
            "std-floor",
            "jnp.where(positive, variance, 1.0)), floor)",
            "jnp.where(positive, variance, 1.0)), 0.0 * floor)",
            "no floor under the standard deviation",
            {"theorems": ("T2",)},
        ),
        (
            "batch-ddof",
            "variance * rows / jnp.maximum(rows - ddof, 1.0)",
            "variance",
            "batch standard deviation over n",
            {"theorems": ("T2",)},
        ),
        ("gpg-exact", "equal_B ** (group_size - 1)", "equal_B**group_size", "GPG on an exact law: groups of G + 1", {}),
        (
            "gpg-rows",
            "(highest > lowest)[traj.group]",
            "(highest >= lowest)[traj.group]",
            "GPG counts degenerate groups",
            {"tests": (f"{_BY_NAME}::test_gpg_counts_the_rows_of_groups_that_differ",)},
        ),
        (
            "psr-threshold",
            "reward_B >= threshold",
            "reward_B > threshold",
            "a return at the threshold is a failure",
            {"theorems": ("T2",), "tests": (f"{_BY_NAME}::test_positive_and_negative_samples",)},
        ),
        (
            "gdpo-weights",
            "w * group_normalised(",
            "group_normalised(",
            "GDPO without the weights of its rewards",
            {"tests": (f"{_BY_NAME}::test_gdpo_normalises_every_reward_on_its_own",)},
        ),
    ),
    *_in(
        "dsjax/objectives/preference.py",
        (),
        _coefficients("simpo", "kto"),
        ("simpo-margin", "beta * gap - margin", "beta * gap + margin", "SimPO's margin on the wrong side", {}),
        ("kto-sign", "beta * s_B * (x_B", "beta * (x_B", "KTO pushes undesirable answers as desirable ones", {}),
        (
            "kto-point-gradient",
            "x_B - jax.lax.stop_gradient(z)",
            "x_B - z",
            "gradient flows through KTO's point",
            {"tests": (f"{_PREFERENCE}::test_kto_is_unpaired_and_its_point_on_an_exact_law_is_the_mean",)},
        ),
        (
            "hinge-margin",
            "jax.nn.relu(1 - gap)",
            "jax.nn.relu(-gap)",
            "hinge without its margin",
            {"tests": _settings("hinge")},
        ),
    ),
    *_in(
        "dsjax/objectives/penalties.py",
        (),
        _coefficients("distillation"),
        (
            "distillation-discount",
            "traj, discount=discount)",
            "traj, discount=1.0)",
            "distillation that does not discount",
            {},
        ),
    ),
)
