"""Advantages: one scalar per trajectory from the returns of its batch or group, and a registry of all advantages.

On samples (Level 3) they are computed from the group's members. On an exact law (Levels 1 and 2) each is its exact
expectation given the trajectory's own return, over the other members of a group of size G drawn from the same law; a
batch-wide statistic is its large-batch limit. Either way it is data: no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives.options import taken
from dsjax.objectives.token_advantages import TOKEN_ADVANTAGES
from dsjax.trajectories import Trajectories, is_concrete

COMPOSITION_LIMIT = 20_000


def _group_sum(x_B: jax.Array, traj: Trajectories) -> jax.Array:
    return jax.ops.segment_sum(x_B, traj.group, traj.num_groups)


def _group_mean(x_B: jax.Array, traj: Trajectories) -> jax.Array:
    """f[B]: the law-weighted mean of x over the trajectory's group."""
    total, mass = _group_sum(traj.weight * x_B, traj), _group_sum(traj.weight, traj)
    return divide(total, mass)[traj.group]


def _members(traj: Trajectories, dtype: jnp.dtype) -> jax.Array:
    """f[B]: sampled members of the trajectory's group, itself included."""
    return _group_sum(jnp.ones_like(traj.group), traj)[traj.group].astype(dtype)


def _sampled_group(traj: Trajectories) -> None:
    size = traj.group.shape[0] / traj.num_groups
    if is_concrete(traj.group):
        members = np.bincount(np.asarray(traj.group))
        size = int(members[members > 0].min())
    require(size >= 2, "group size", size, "at least 2 members, for a baseline made of the others")


def none(reward_B: jax.Array, traj: Trajectories) -> jax.Array:
    """A = R."""
    del traj
    return reward_B


def batch_mean(reward_B: jax.Array, traj: Trajectories) -> jax.Array:
    """A = R - mean over the batch, itself included.

    A finite batch of B independent samples scales the expected gradient by (B - 1)/B; on an exact law the factor is
    1, the limit of a large batch.
    """
    return reward_B - divide(jnp.sum(traj.weight * reward_B), jnp.sum(traj.weight))


def leave_one_out(reward_B: jax.Array, traj: Trajectories) -> jax.Array:
    """A = R - mean of the other members of the group; unbiased. Exact law: R - E[R | q]."""
    if traj.exact:
        return reward_B - _group_mean(reward_B, traj)
    _sampled_group(traj)
    size_B = _members(traj, reward_B.dtype)
    others_B = (_group_sum(reward_B, traj)[traj.group] - reward_B) / jnp.maximum(size_B - 1.0, 1.0)
    return reward_B - others_B


def group_mean(reward_B: jax.Array, traj: Trajectories, *, group_size: int = 8) -> jax.Array:
    """A = R - mean of the group, itself included: (G - 1)/G of leave-one-out (Dr.GRPO)."""
    if traj.exact:
        require(group_size >= 2, "group_size", group_size, "at least 2")
        return (group_size - 1) / group_size * leave_one_out(reward_B, traj)
    _sampled_group(traj)
    return reward_B - _group_sum(reward_B, traj)[traj.group] / _members(traj, reward_B.dtype)


def _compositions(total: int, parts: int) -> np.ndarray:
    """i[N, parts]: all ways to write `total` as an ordered sum of `parts` integers >= 0."""
    count = comb(total + parts - 1, parts - 1)
    require(
        count <= COMPOSITION_LIMIT,
        "reward_support",
        f"{parts} values: {count:,} compositions of a group",
        f"at most {COMPOSITION_LIMIT:,} compositions",
    )
    rows = [np.bincount(c, minlength=parts) for c in combinations_with_replacement(range(parts), total)]
    return np.array(rows).reshape(count, parts)


class _Members(NamedTuple):
    """A group of G on an exact law: its trajectory B and the N ways in which the others' returns can be counted."""

    support: jax.Array  # f[K]: values of the returns
    counts: jax.Array  # f[N, K]: how many of the other G - 1 members have each value
    mean: jax.Array  # f[B, N]: of all G returns
    pmf: jax.Array  # f[B, N]: probability of the counts
    covered: jax.Array  # bool[]: no return of positive probability is outside of the support

    def expected(self, value_BxN: jax.Array) -> jax.Array:
        """f[B]: the mean over the other members."""
        advantage_B = jnp.sum(self.pmf * value_BxN, -1)
        return jnp.where(self.covered, advantage_B, jnp.nan)


def _members_of_law(
    reward_B: jax.Array, traj: Trajectories, group_size: int, reward_support: tuple[float, ...]
) -> _Members:
    """The other members' returns take the values `reward_support` with their probabilities at the prompt: multinomial.

    Mass on other values is an error outside of a trace and gives NaN inside of one: never a silently wrong number.
    """
    require(group_size >= 2, "group_size", group_size, "at least 2")
    support_K = jnp.asarray(reward_support, reward_B.dtype)
    close_BxK = jnp.abs(reward_B[:, None] - support_K[None, :]) <= 64 * jnp.finfo(reward_B.dtype).eps
    law_QxK = jax.vmap(lambda is_k: _group_sum(traj.weight * is_k, traj), in_axes=1, out_axes=1)(
        close_BxK.astype(reward_B.dtype)
    )
    mass_Q = _group_sum(traj.weight, traj)
    covered = jnp.all((jnp.sum(close_BxK, -1) == 1) | (traj.weight == 0))
    if is_concrete(covered):
        require(bool(covered), "reward_support", reward_support, "all returns that have positive probability")
    law_QxK = divide(law_QxK, mass_Q[:, None])
    counts_NxK = jnp.asarray(_compositions(group_size - 1, len(reward_support)), reward_B.dtype)
    log_multinomial_N = gammaln(jnp.asarray(group_size, reward_B.dtype)) - jnp.sum(gammaln(counts_NxK + 1), -1)
    log_pmf_QxN = log_multinomial_N[None] + jnp.sum(xlogy(counts_NxK[None], law_QxK[:, None, :]), -1)
    others_sum_N = jnp.sum(counts_NxK * support_K[None, :], -1)  # no matmul: some devices round its inputs
    mean_BxN = (others_sum_N[None] + reward_B[:, None]) / group_size
    return _Members(support_K, counts_NxK, mean_BxN, jnp.exp(log_pmf_QxN)[traj.group], covered)


def _batch_variance(x_B: jax.Array, traj: Trajectories, ddof: int) -> jax.Array:
    """f[]: of x over the whole batch, 0 where all are equal; on an exact law the limit of a large batch."""
    mass, rows = jnp.sum(traj.weight), jnp.sum(traj.weight > 0).astype(x_B.dtype)
    centred_B = x_B - divide(jnp.sum(traj.weight * x_B), mass)
    variance = divide(jnp.sum(traj.weight * centred_B**2), mass)
    dust = (2 * rows * jnp.finfo(x_B.dtype).eps * jnp.max(jnp.abs(jnp.where(traj.weight > 0, x_B, 0.0)))) ** 2
    variance = jnp.where(variance > dust, variance, 0.0)
    return variance if traj.exact else variance * rows / jnp.maximum(rows - ddof, 1.0)


def group_normalised(
    reward_B: jax.Array,
    traj: Trajectories,
    *,
    group_size: int = 8,
    reward_support: tuple[float, ...] = (0.0, 1.0),
    epsilon: float = 1e-4,
    std_of: str = "group",
    ddof: int = 0,
    std_floor: float = 0.0,
) -> jax.Array:
    """A = (R - mean)/(max(std, std_floor) + epsilon) over the group (GRPO); 0 where std = 0.

    The standard deviation is over n - ddof: of the population by default; `ddof=1` is the default of TRL and verl, and
    makes A smaller by sqrt((G - 1)/G), 6 % at G = 8. With `std_of="batch"` it is that of all returns of the batch, the
    mean still that of the group (TRL `scale_rewards="batch"`).

    Exact law: the expectation over the other G - 1 members, whose returns take the values `reward_support` with the
    probabilities that the law gives them at this prompt (multinomial; binomial for a binary verifier). Mass on other
    values is an error outside of a trace and gives NaN inside of one. The batch is a large one: its standard deviation
    is that of the law.
    """
    epsilon_, floor = (jnp.asarray(x, reward_B.dtype) for x in (epsilon, std_floor))
    require(std_of in ("group", "batch"), "std_of", std_of, ("group", "batch"))
    require(ddof in (0, 1), "ddof", ddof, "0 or 1")

    def normalise(centred: jax.Array, variance: jax.Array) -> jax.Array:
        positive = variance > 0
        std = jnp.maximum(jnp.sqrt(jnp.where(positive, variance, 1.0)), floor)
        return jnp.where(positive, centred / (std + epsilon_), 0.0)

    if std_of == "batch":
        return normalise(group_mean(reward_B, traj, group_size=group_size), _batch_variance(reward_B, traj, ddof))
    if not traj.exact:
        _sampled_group(traj)
        size_B = _members(traj, reward_B.dtype)
        mean_B = _group_sum(reward_B, traj)[traj.group] / size_B
        centred_B = reward_B - mean_B
        variance_B = _group_sum(centred_B * centred_B, traj)[traj.group] / jnp.maximum(size_B - ddof, 1.0)
        # Equal returns leave rounding dust of relative size G eps in the centred values: a degenerate group, std = 0.
        dust_B = (2 * size_B * jnp.finfo(reward_B.dtype).eps * mean_B) ** 2
        return normalise(centred_B, jnp.where(variance_B > dust_B, variance_B, 0.0))

    members = _members_of_law(reward_B, traj, group_size, reward_support)
    counts_NxK, support_K, mean_BxN = members.counts, members.support, members.mean
    spread_BxN = jnp.sum(counts_NxK[None] * (support_K[None, None] - mean_BxN[..., None]) ** 2, -1)
    variance_BxN = (spread_BxN + (reward_B[:, None] - mean_BxN) ** 2) / (group_size - ddof)
    # All G returns equal: the sums above are then exact for values like 0 and 1, and dust for others.
    dust = (2 * group_size * jnp.finfo(reward_B.dtype).eps * jnp.max(jnp.abs(support_K))) ** 2
    variance_BxN = jnp.where(variance_BxN > dust, variance_BxN, 0.0)
    return members.expected(normalise(reward_B[:, None] - mean_BxN, variance_BxN))


def gdpo(
    reward: jax.Array,
    traj: Trajectories,
    *,
    epsilon: float = 1e-4,
    ddof: int = 0,
    reward_weights: tuple[float, ...] | None = None,
) -> jax.Array:
    """A = (S - mean S)/(std S + epsilon) over the batch, S = sum_m w_m group_normalised(R_m) (GDPO, arXiv 2601.05242).

    Several rewards of one trajectory, each normalised in its group, so that none drowns the others; the weighted sum is
    normalised over the sequences of the batch (TRL `normalize_then_sum`; verl whitens it over tokens). Samples only: an
    exact law would need the joint law of the rewards of a group.

    Args:
      reward: f[B, M] rewards, or f[B], one.
      traj: trajectories.
      epsilon: added to both standard deviations.
      ddof: both are over n - ddof.
      reward_weights: M weights, 1 by default.
    """
    require(not traj.exact, "trajectories", "an exact law", "samples, for gdpo")
    reward_BxM = reward[:, None] if reward.ndim == 1 else reward
    weights = (1.0,) * reward_BxM.shape[1] if reward_weights is None else reward_weights
    require(len(weights) == reward_BxM.shape[1], "reward_weights", weights, f"{reward_BxM.shape[1]} weights")
    parts = [w * group_normalised(reward_BxM[:, m], traj, epsilon=epsilon, ddof=ddof) for m, w in enumerate(weights)]
    total_B = sum(parts, jnp.zeros_like(reward_BxM[:, 0]))
    variance = _batch_variance(total_B, traj, ddof)
    std = jnp.sqrt(jnp.where(variance > 0, variance, 1.0)) + jnp.asarray(epsilon, total_B.dtype)
    return jnp.where(variance > 0, batch_mean(total_B, traj) / std, 0.0)


def gpg(reward_B: jax.Array, traj: Trajectories, *, group_size: int = 8) -> jax.Array:
    """A = alpha (R - group mean), alpha = rows / rows of groups whose returns differ (GPG, Chu et al. 2025).

    A large batch: on an exact law alpha is 1 / P(the returns of a group differ), by comparing all pairs, B x B.
    """
    A_B, mass = group_mean(reward_B, traj, group_size=group_size), jnp.sum(traj.weight)
    if traj.exact:
        close = jnp.abs(reward_B[:, None] - reward_B[None, :]) <= 64 * jnp.finfo(reward_B.dtype).eps
        same = close & (traj.group[:, None] == traj.group[None, :])
        equal_B = divide(
            jnp.sum(jnp.where(same, traj.weight[None, :], 0.0), 1), _group_sum(traj.weight, traj)[traj.group]
        )
        differ = jnp.sum(traj.weight * (1 - equal_B ** (group_size - 1)))
    else:
        highest, lowest = (
            extreme(reward_B, traj.group, traj.num_groups) for extreme in (jax.ops.segment_max, jax.ops.segment_min)
        )
        differ = jnp.sum(jnp.where((highest > lowest)[traj.group], traj.weight, 0.0))
    return jnp.where(differ > 0, A_B * mass / jnp.where(differ > 0, differ, 1.0), 0.0)


def psr_nsr(
    reward_B: jax.Array, traj: Trajectories, *, positive_weight: float = 0.1, threshold: float = 1.0
) -> jax.Array:
    """A = lambda where R >= threshold, else -1 (positive and negative sample reinforcement, arXiv 2506.01347)."""
    del traj
    weight, wrong = (jnp.asarray(x, reward_B.dtype) for x in (positive_weight, -1.0))
    return jnp.where(reward_B >= threshold, weight, wrong)


def maxrl(
    reward_B: jax.Array,
    traj: Trajectories,
    *,
    group_size: int = 8,
    reward_support: tuple[float, ...] = (0.0, 1.0),
    epsilon: float = 1e-6,
) -> jax.Array:
    """A = (R - mean)/(mean + epsilon) over the group, itself included (MaxRL, Tajwar et al. 2026).

    0 where the mean is not positive: nothing succeeded, and a negative mean would turn every sign. Exact law: as
    `group_normalised`, the expectation over the other G - 1 members.
    """
    epsilon_, eps = jnp.asarray(epsilon, reward_B.dtype), jnp.finfo(reward_B.dtype).eps

    def over_mean(reward: jax.Array, mean: jax.Array, dust: jax.Array) -> jax.Array:
        succeeded = mean > dust
        return jnp.where(succeeded, (reward - mean) / (jnp.where(succeeded, mean, 1.0) + epsilon_), 0.0)

    # Returns of both signs that cancel leave rounding dust of relative size G eps.
    if not traj.exact:
        _sampled_group(traj)
        size_B = _members(traj, reward_B.dtype)
        mean_B, scale_B = (_group_sum(x, traj)[traj.group] / size_B for x in (reward_B, jnp.abs(reward_B)))
        return over_mean(reward_B, mean_B, 2 * size_B * eps * scale_B)
    members = _members_of_law(reward_B, traj, group_size, reward_support)
    dust = 2 * group_size * eps * jnp.max(jnp.abs(members.support))
    return members.expected(over_mean(reward_B[:, None], members.mean, dust))


def opo(reward_B: jax.Array, traj: Trajectories, *, group_size: int = 8) -> jax.Array:
    """A = R - sum_j T_j R_j / sum_j T_j over the group, itself included; T loss tokens (OPO, Hao et al. 2025). BIASED.

    The trajectory's own return is in its baseline, with a part that grows with its length, so the expected gradient
    is that of no objective common to both components (T23). Exact law: the expectation over the other G - 1 members,
    any verifier; their total length is a sum of independent integers, whose law is a product of Fourier transforms.
    """
    tokens_B = traj.num_tokens
    if not traj.exact:
        _sampled_group(traj)
        paid, written = (_group_sum(x, traj)[traj.group] for x in (tokens_B * reward_B, tokens_B))
        return reward_B - divide(paid, written)
    require(group_size >= 2, "group_size", group_size, "at least 2")
    longest, others = traj.tokens.shape[1], group_size - 1
    size, mass_Q = others * longest + 1, _group_sum(traj.weight, traj)
    place_B = traj.group * size + jnp.sum(traj.mask, axis=-1, dtype=traj.group.dtype)

    def transform(x_B: jax.Array) -> jax.Array:
        """Of E[x; T = n] at each prompt, n = 0 .. size - 1."""
        by_length = jax.ops.segment_sum(traj.weight * x_B, place_B, traj.num_groups * size)
        return jnp.fft.rfft(divide(by_length.reshape(-1, size), mass_Q[:, None]))

    length, paid = transform(jnp.ones_like(reward_B)), transform(tokens_B * reward_B)
    # By total length n of the others: its probability, and the mean of sum_j T_j R_j where it is n.
    law_QxN = jnp.fft.irfft(length**others, size)
    paid_QxN = jnp.fft.irfft(others * paid * length ** (others - 1), size)
    total_BxN = tokens_B[:, None] + jnp.arange(size, dtype=reward_B.dtype)[None]
    own_BxN = (tokens_B * reward_B)[:, None] * law_QxN[traj.group]
    return reward_B - jnp.sum(divide(own_BxN + paid_QxN[traj.group], total_BxN), -1)


SEQUENCE_ADVANTAGES: dict[str, Callable[..., jax.Array]] = {
    "none": none,
    "batch_mean": batch_mean,
    "leave_one_out": leave_one_out,
    "group_mean": group_mean,
    "group_normalised": group_normalised,
    "maxrl": maxrl,
    "opo": opo,
    "gdpo": gdpo,
    "gpg": gpg,
    "psr_nsr": psr_nsr,
}
ADVANTAGES: dict[str, Callable[..., jax.Array]] = {**SEQUENCE_ADVANTAGES, **TOKEN_ADVANTAGES}


def advantage(name: str, reward: jax.Array, traj: Trajectories, **options) -> jax.Array:
    """The advantage of that name, cut off from any gradient: f[B], or f[B, S] for `TOKEN_ADVANTAGES`.

    Raises:
      InputError: for an unknown name, or an option that this advantage does not have.
    """
    require(name in ADVANTAGES, "advantage", name, ADVANTAGES)
    options = taken(f"advantage {name}", ADVANTAGES[name], options)
    return jax.lax.stop_gradient(ADVANTAGES[name](reward, traj, **options))
