"""T14: every sampling token adds noise of its own to the sampled gradient; the decision's noise knows no length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.attribution import SignalNoise, coefficients, component_mask, fisher, signal_to_noise, whitened_squares
from dsjax.objectives import Objective, SumCount, reinforce
from dsjax.objectives.advantages import advantage
from dsjax.objectives.aggregation import aggregate
from dsjax.policies import Params, Policy, PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.closed_forms import context_counts
from proofs_check.instances import Instance, Shape, Traced
from proofs_check.numerics import ENERGY, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES, Requirement
from proofs_check.theorem import Claim, Control, Measured, Theorem
from proofs_check.theorems.t04_length_invariance.numeric import SHORT

# A second moment is an average of energies, all >= 0: it has the relative accuracy of an energy.
CLAIMS = (
    Claim("w = 1: M_c = rank F_c, the number of free directions", ENERGY),
    Claim("min w^2 rank F_c <= M_c <= max w^2 rank F_c", ENERGY),
    Claim("binary, c = 0: S_c/M_c <= max(J/(1-J), (1-J)/J) / rank F_c", ENERGY),
    Claim("position-wise: S_c and M_c from Pearson's statistic of the counts, w = R - J", ENERGY),
    Claim("position-wise: the same for w = R", ENERGY),
    Claim("one softmax a context and round: M_c = sum_x sum_v (1 - pi(v|x)) E[w^2 | x, v]", ENERGY),
    Claim("one coefficient a token: the same with E[k^2 | x, v]", ENERGY),
    Claim("tokens that the decider does not read: |M_s - L (V-1) E[tau w^2]/E[tau]| <= const sqrt(L)", ENERGY),
    Claim("m filler tokens: M_s grows by m (V-1) E[tau w^2]/E[tau]; S_s, S_d, M_d as before", ENERGY),
    Claim("crossing: at L* both ratios S_c/M_c agree", ENERGY),
    Claim("S_d/M_d > S_s/M_s iff L > L*", ENERGY),
    Claim("constant baseline: M_c(b) = M_c(b*) + rank F_c (b - b*)^2, b*_c = E[R z_c]/rank F_c", ENERGY),
    Claim("G trajectories, leave-one-out: G noise = M_c - S_c + (Var(R) rank F_c + S_c)/(G-1)", ENERGY),
    Claim("G trajectories, group mean: (G-1)/G of the gradient, so the same ratio", ENERGY),
)
(RANK, BETWEEN, BOUND, MOMENT, RAW, CONTEXTS, TOKENS, ROOT, FILLER, CROSSING, ORDER, BASELINE, GROUP, DR) = (
    c.name for c in CLAIMS
)
CONTROLS = (
    Control("'~' read as '=': M_c = E[w^2] rank F_c", MOMENT),
    Control("filler drawn once a trajectory: m (V-1) E[w^2]/E[tau]", FILLER),
    Control("a decider that can read the filler, with the same law", FILLER),
    Control("E[w^2 | x, v] averaged under pi instead of 1 - pi", CONTEXTS),
    Control("M_c does not depend on the baseline", BASELINE),
    Control("leave-one-out baseline as good as J: noise (M_c - S_c)/G", GROUP),
    Control("members of a group taken as independent: S_c/(G-1) left out", GROUP),
)

# Gradients of pi_d are exact to ~1e-16, so a signal of 1e-10 (a gradient of 1e-5) to ~1e-11 of itself.
LEAST_SIGNAL = 1e-10
FAR = 3.0  # a baseline on the far side of every return: b* is an average of returns, with weights z_c >= 0


@dataclass(frozen=True)
class Lengthening:
    """What is static about an instance: a process whose answers are lengthened by filler, or left as they are."""

    base: Shape
    reads: int = -1  # first tokens that the decider of a position-wise policy reads; -1: the shape's own policy
    filler: int = 0  # m
    group: int = 0  # G of the groups that are enumerated; 0: none

    @property
    def positionwise(self) -> bool:
        """Whether the policy is position-wise."""
        return self.reads >= 0

    @property
    def share(self) -> float:
        """See `Shape.share`."""
        return self.base.share

    def __str__(self) -> str:
        if not self.positionwise:
            return str(self.base)
        group = f" groups of {self.group}" if self.group else ""
        return f"{self.base}, position-wise, decider reads {self.reads}; filler {self.filler}{group}"


class Lengthened(struct.PyTreeNode):
    """An instance and the logits of the filler."""

    instance: Instance
    filler_logits: jax.Array  # f[Q, max(m, 1), V]
    sizes: Lengthening = struct.field(pytree_node=False)


class Setting(NamedTuple):
    """What check and control share."""

    lengthened: Lengthened
    traj: Trajectories
    payoffs: jax.Array  # f[4, B]: w = R - J, w = R, w = 1, w = R - FAR
    measured: SignalNoise  # of those payoffs: fields f[4]
    ranks: tuple[int | jax.Array, int | jax.Array]  # (rank F_s, rank F_d)
    longer: SignalNoise | None = None  # with filler, w = R - J
    groups: tuple[tuple[jax.Array, jax.Array], ...] = ()  # (M_s, M_d) of groups: leave-one-out, group mean


def draw(key: jax.Array, sizes: Lengthening, process: DecisionSamplingProcess | None = None) -> Lengthened:
    """A random instance; a position-wise policy takes the place of the saturated one where the sizes ask for it."""
    base_key, filler_key = jax.random.split(key)
    instance = instances.draw(base_key, sizes.base, process)
    shape = sizes.base
    if sizes.positionwise:
        policy = Traced(PositionwisePolicy(shape.prompts, shape.vocabulary, shape.length, sizes.reads))
        instance = instance.replace(policy=policy, params=policy.init(instance.key))
    # At least one, used or not: an array without entries does not survive a file.
    filler = instances.normal(filler_key, shape.prompts, max(sizes.filler, 1), shape.vocabulary)
    return Lengthened(instance, filler, sizes)


def ranks(sizes: Lengthening, measured: SignalNoise) -> tuple[int | jax.Array, int | jax.Array]:
    """(rank F_s, rank F_d): free directions that the component's tokens can move.

    Of a network: tr(F_c^+ F_c) as measured (w = 1). Its Fisher matrix can have any small eigenvalue, so how many count
    as zero is a matter of the cut, and z_c is what the kept ones make it.
    """
    shape = sizes.base
    if shape.network:
        return measured.moment_sample[2], measured.moment_decision[2]
    Q, L, V, T = shape.prompts, shape.length, shape.vocabulary, shape.rounds
    if sizes.positionwise:
        return Q * L * (V - 1), Q * V**sizes.reads
    A = V**L
    H_s, H_d = (sum(A**t for t in range(n)) if shape.history == "full" else 1 for n in (T, T - 1))
    free_s, free_d = Q * H_s * (A - 1), Q * H_d * A
    return (min(free_s, shape.shared), min(free_d, shape.shared)) if shape.shared else (free_s, free_d)


def measure(policy: Policy, params: Params, traj: Trajectories, payoffs_KxB: jax.Array) -> SignalNoise:
    """The library's signals and second moments of REINFORCE with each payoff as its weight; fields f[K]."""
    fishers = fisher(policy, params, traj)

    def one(payoff_B: jax.Array) -> SignalNoise:
        return signal_to_noise(policy, params, traj.replace(reward=payoff_B), reinforce, fishers=fishers)

    return jax.vmap(one)(payoffs_KxB)


def centred(traj: Trajectories) -> jax.Array:
    """w = R - J."""
    return advantage("batch_mean", traj.reward, traj)


def prepare(lengthened: Lengthened) -> Setting:
    """The exact law and what the library measures on it, on its lengthened version and on its groups."""
    instance, sizes = lengthened.instance, lengthened.sizes
    traj = instance.process.enumerate_trajectories(instance.policy, instance.params)
    payoffs = jnp.stack([centred(traj), traj.reward, jnp.ones_like(traj.reward), traj.reward - FAR])
    measured = measure(instance.policy, instance.params, traj, payoffs)
    longer = _longer(lengthened, sizes.reads) if sizes.positionwise else None
    baselines = [partial(reinforce, baseline=name) for name in ("leave_one_out", "batch_mean")]
    groups = group_moments(instance.policy, instance.params, traj, baselines, sizes.group) if sizes.group else ()
    return Setting(lengthened, traj, payoffs, measured, ranks(sizes, measured), longer, groups)


def lengthen(
    process: DecisionSamplingProcess, params: Params, filler_logits: jax.Array, reads: int
) -> tuple[DecisionSamplingProcess, Traced, Params]:
    """(process, policy, parameters) with m filler tokens after every answer; filler_logits f[Q, m, V]."""
    Q, m, V = filler_logits.shape
    longer = process.replace(
        reward_table=jnp.repeat(process.reward_table, V**m, axis=1),
        length=process.length + m,
    )
    sample = jnp.concatenate([params["sample"], filler_logits], axis=1)
    policy = Traced(PositionwisePolicy(Q, V, longer.length, reads))
    # A decider that reads further than its table goes has the same law after every continuation.
    contexts = V**reads // params["decide"].shape[1]
    return longer, policy, {"sample": sample, "decide": jnp.repeat(params["decide"], contexts, axis=1)}


class Exact(NamedTuple):
    """A position-wise policy's law over the counts of one prompt's trajectories (I of them) and what follows from it.

    A softmax that is drawn n times with counts N has score N - n pi and Fisher matrix E[n] (diag pi - pi pi^T), so its
    whitened square is (sum_v N_v^2/pi_v - n^2) / E[n]: n/E[n] times Pearson's chi-square statistic of the counts.
    """

    law: jax.Array  # f[Q, I], prompt law included
    reward: jax.Array  # f[Q, I]
    rounds: jax.Array  # f[I]: tau
    scores_s: jax.Array  # f[Q, I, L, V]: N - tau pi
    scores_d: jax.Array  # f[Q, I, U, 2]
    square_s: jax.Array  # f[Q, I, L]: z by position; E[z] = V - 1, summed over prompts
    square_d: jax.Array  # f[Q, I, U]: z by decision context
    mass_s: jax.Array  # f[Q]: expected draws from each position's softmax, mu E[tau | q]
    mass_d: jax.Array  # f[Q, U]
    pi: jax.Array  # f[Q, L, V]
    delta: jax.Array  # f[Q, U, 2]


def _count(V: int, L: int, T: int, reads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(i[I, L, V] tokens by position, i[I, U, 2] decisions by context, i[I] last answer, i[I] tau)."""
    A, U = V**L, V**reads
    digits = np.stack([np.arange(A) // V ** (L - 1 - j) % V for j in range(L)], axis=-1)
    token_AxLxV, context_AxU = np.eye(V)[digits], np.eye(U)[np.arange(A) // V ** (L - reads)]
    tokens, decisions, last, rounds = [], [], [], []
    for tau in range(1, T + 1):
        answers = np.array(list(product(range(A), repeat=tau)))
        resample = context_AxU[answers[:, :-1]].sum(1)
        stop = context_AxU[answers[:, -1]] * (tau < T)  # forced at the horizon: no draw
        tokens.append(token_AxLxV[answers].sum(1))
        decisions.append(np.stack([stop, resample], axis=-1))
        last.append(answers[:, -1])
        rounds.append(np.full(len(answers), tau))
    return np.concatenate(tokens), np.concatenate(decisions), np.concatenate(last), np.concatenate(rounds)


def exact(process: DecisionSamplingProcess, params: Params, reads: int) -> Exact:
    """Law, scores and whitened squares of every trajectory, from counts alone."""
    counts_s, counts_d, last, tau = _count(process.vocabulary, process.length, process.rounds, reads)
    N_s, N_d, tau_I = jnp.asarray(counts_s)[None], jnp.asarray(counts_d)[None], jnp.asarray(tau, float)
    log_pi, log_delta = jax.nn.log_softmax(params["sample"]), jax.nn.log_softmax(params["decide"])
    pi, delta = jnp.exp(log_pi), jnp.exp(log_delta)
    log_law = jnp.sum(N_s * log_pi[:, None], (-2, -1)) + jnp.sum(N_d * log_delta[:, None], (-2, -1))
    law = process.prompt_law[:, None] * jnp.exp(log_law)
    draws_d = jnp.sum(N_d, -1)
    mass_s = jnp.sum(law * tau_I[None], -1)
    mass_d = jnp.sum(law[..., None] * draws_d, 1)
    square_s = jnp.sum(N_s**2 / pi[:, None], -1) - tau_I[None, :, None] ** 2
    square_d = jnp.sum(N_d**2 / delta[:, None], -1) - draws_d**2
    return Exact(
        law,
        process.reward_table[:, last] - process.cost * (tau_I[None] - 1),
        tau_I,
        N_s - tau_I[None, :, None, None] * pi[:, None],
        N_d - draws_d[..., None] * delta[:, None],
        square_s / mass_s[:, None, None],
        square_d / mass_d[:, None],
        mass_s,
        mass_d,
        pi,
        delta,
    )


class Moments(NamedTuple):
    """Signals, second moments and the noise of one filler token, in closed form, for the weight w = R - b."""

    signal_s: jax.Array
    signal_d: jax.Array
    moments_s: jax.Array  # f[L]: M_s by position
    moment_d: jax.Array
    per_visit: jax.Array  # sum_q E_q[tau w^2]/E_q[tau]: a filler token adds (V - 1) of these to M_s


def moments(e: Exact, b: jax.Array | float) -> Moments:
    """S_c = sum g^2/(n pi), M_c = E[w^2 z_c], from the counts."""
    mean = e.law * (e.reward - b)
    square = e.law * (e.reward - b) ** 2
    g_s = jnp.sum(mean[..., None, None] * e.scores_s, 1)
    g_d = jnp.sum(mean[..., None, None] * e.scores_d, 1)
    return Moments(
        jnp.sum(g_s**2 / (e.mass_s[:, None, None] * e.pi)),
        jnp.sum(g_d**2 / (e.mass_d[..., None] * e.delta)),
        jnp.sum(square[..., None] * e.square_s, (0, 1)),
        jnp.sum(square[..., None] * e.square_d),
        jnp.sum(jnp.sum(square * e.rounds[None], -1) / e.mass_s),
    )


def crossing_filler(m: Moments, vocabulary: int) -> jax.Array:
    """Number of filler tokens (a real number, negative if already passed) at which S_s/M_s = S_d/M_d."""
    excess = m.signal_s * m.moment_d / m.signal_d - jnp.sum(m.moments_s)
    return excess / ((vocabulary - 1) * m.per_visit)


def root_bound(e: Exact, b: jax.Array, reads: int, V: int) -> jax.Array:
    """Bound on |M_s - L (V-1) E[tau w^2]/E[tau]| over the tokens after the first `reads`: it grows as sqrt(L).

    Given the decisions these tokens are tau independent draws each; tau X^2 of a position has variance
    2 (V-1) tau (tau-1) + tau (sum_v 1/pi_v - V^2), and the positions are independent: Cauchy-Schwarz against w^2.
    """
    tau, law_q = e.rounds[None], e.law / jnp.sum(e.law, -1, keepdims=True)
    spread_Q = jnp.sum(jnp.sum(1.0 / e.pi[:, reads:], -1) - V**2, -1)
    pairs_Q = 2.0 * (V - 1) * (e.pi.shape[1] - reads) * jnp.sum(law_q * tau * (tau - 1), -1)
    mean_tau = jnp.sum(law_q * tau, -1)
    fourth = jnp.sum(law_q * (e.reward - b) ** 4, -1)
    return jnp.sum(jnp.sqrt(fourth * (pairs_Q + mean_tau * spread_Q)) / mean_tau)


def group_moments(
    policy: Policy, params: Params, traj: Trajectories, objectives: Sequence[Objective], size: int
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """(M_s, M_d) of each objective's gradient on a group of `size` independent trajectories, over all possible groups.

    One prompt. The objectives see samples, as in training: every group is a batch of its own.
    """
    flat, unravel = ravel_pytree(params)
    members = jnp.asarray(list(product(range(traj.weight.shape[0]), repeat=size)))  # i[N, G]
    logp_BxS = log_probs(policy, params, traj)
    masks = [component_mask(traj, name) for name in ("sample", "decision")]
    scores = jax.jacfwd(lambda p: log_probs(policy, unravel(p), traj))(flat)  # f[B, S, P]

    def gradient(i_G: jax.Array) -> jax.Array:
        chosen = jax.tree.map(lambda x: x[i_G], traj)
        batch = chosen.replace(weight=jnp.full(size, 1.0 / size), group=jnp.zeros_like(i_G, jnp.int32), exact=False)
        c_KxGxS = jnp.stack([coefficients(objective, logp_BxS[i_G], batch) for objective in objectives])
        parts = [jnp.einsum("kgs,gsp->kp", jnp.where(mask[i_G][None], c_KxGxS, 0.0), scores[i_G]) for mask in masks]
        return jnp.stack(parts)

    g_Nx2xKxP = jax.vmap(gradient)(members)
    law_N = jnp.prod(traj.weight[members], axis=-1)
    found = []
    for i, F in enumerate(fisher(policy, params, traj)):
        squares_NxK = jax.vmap(whitened_squares, in_axes=(1, None), out_axes=1)(g_Nx2xKxP[:, i], F)
        found.append(jnp.sum(law_N[:, None] * squares_NxK, axis=0))
    return tuple(zip(*found, strict=True))


def group_noise(
    signal: jax.Array, moment: jax.Array, variance: jax.Array, rank: float | jax.Array, size: int
) -> jax.Array:
    """Noise of a group's leave-one-out gradient; `moment` is M_c at w = R - J, `variance` is Var(R), one prompt."""
    return (moment - signal + (variance * rank + signal) / (size - 1)) / size


def _between(
    payoffs: jax.Array, found: tuple[jax.Array, jax.Array], rank: tuple[int | jax.Array, int | jax.Array]
) -> Measured:
    """min w^2 rank <= M_c <= max w^2 rank, for both components."""
    low, high = jnp.min(payoffs**2), jnp.max(payoffs**2)
    sides = [side for M, r in zip(found, rank, strict=True) for side in (M - low * r, high * r - M)]
    margin = jnp.min(jnp.stack(sides))
    return Measured(shortfall(margin), margin)


def _of_contexts(process: DecisionSamplingProcess, law: jax.Array, squares: Params, *, mirror: bool = False) -> Params:
    """(M_s, M_d) as sum_x sum_v (1 - pi(v|x)) E[w^2 | x, v]; `squares`: expected sum of w^2 over the draws (x, v)."""

    def total(n: jax.Array, n_square: jax.Array) -> jax.Array:
        pi = n / jnp.sum(n, -1, keepdims=True)
        return jnp.sum((pi * (n.shape[-1] - 1) if mirror else 1.0 - pi) * n_square / n)

    counts = context_counts(process, law)
    return total(counts["sample"], squares["sample"]), total(counts["decide"], squares["decide"])


def _causal_objective(advantage_BxS: jax.Array) -> Objective:
    """A user's own objective, one coefficient a token: that token's causal advantage."""

    def objective(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        return aggregate(-advantage_BxS * logp_BxS, traj, "sequence_sum")

    return objective


def _saturated(setting: Setting) -> dict[str, Measured]:
    """One softmax for each context and round: one coefficient a trajectory and (T = 2) one a token."""
    instance, traj, law = setting.lengthened.instance, setting.traj, setting.traj.weight
    process, m = instance.process, setting.measured
    stated = _of_contexts(process, law, context_counts(process, law * setting.payoffs[0] ** 2))
    measured = {CONTEXTS: Measured(gap((m.moment_sample[0], m.moment_decision[0]), stated))}
    if process.rounds != 2:
        return measured
    assert traj.old_logp is not None
    values = process.values(process.tables(traj.old_logp), traj.reward)
    advantage_BxS = process.token_advantages(values)
    found = signal_to_noise(instance.policy, instance.params, traj, _causal_objective(advantage_BxS))
    # Round by round: block t of the token axis holds A^s_t (on its L tokens) and A^d_t; history index 0 is round 1.
    rows = traj.blocks(advantage_BxS, process.length)
    first, second = (context_counts(process, law * rows[:, t, 0] ** 2)["sample"] for t in range(2))
    squares = {
        "sample": jnp.concatenate([first[:, :1], second[:, 1:]], axis=1),
        "decide": context_counts(process, law * rows[:, 0, -1] ** 2)["decide"],
    }
    tokens = Measured(gap((found.moment_sample, found.moment_decision), _of_contexts(process, law, squares)))
    return measured | {TOKENS: tokens}


def _mean(traj: Trajectories) -> jax.Array:
    return jnp.sum(traj.weight * traj.reward)


def _longer(lengthened: Lengthened, reads: int) -> SignalNoise:
    """The library's measurement of the lengthened process, w = R - J."""
    instance = lengthened.instance
    process, policy, params = lengthen(instance.process, instance.params, lengthened.filler_logits, reads)
    traj = process.enumerate_trajectories(policy, params)
    return jax.tree.map(lambda x: x[0], measure(policy, params, traj, centred(traj)[None]))


def _four(m: SignalNoise, i: int) -> tuple[jax.Array, ...]:
    return m.signal_sample[i], m.signal_decision[i], m.moment_sample[i], m.moment_decision[i]


def _positionwise(setting: Setting) -> dict[str, Measured]:
    """Closed forms, filler, crossing, the root bound, and groups."""
    lengthened, traj, _, m, (rank_s, rank_d), long, _ = setting
    assert long is not None
    sizes, process, params = lengthened.sizes, lengthened.instance.process, lengthened.instance.params
    V, extra, reads = sizes.base.vocabulary, sizes.filler, sizes.reads
    J = _mean(traj)
    e = exact(process, params, reads)
    stated, raw = moments(e, J), moments(e, 0.0)

    def four(x: Moments) -> tuple[jax.Array, ...]:
        return x.signal_s, x.signal_d, jnp.sum(x.moments_s), x.moment_d

    measured = {MOMENT: Measured(gap(_four(m, 0), four(stated))), RAW: Measured(gap(_four(m, 1), four(raw)))}
    unread = sizes.base.length - reads
    if unread > 0:
        excess = m.moment_sample[0] - jnp.sum(stated.moments_s[:reads]) - unread * (V - 1) * stated.per_visit
        margin = root_bound(e, J, reads, V) - jnp.abs(excess)
        measured[ROOT] = Measured(shortfall(margin), margin)

    S_s, S_d, M_s, M_d = _four(m, 0)
    grown = (long.signal_sample, long.signal_decision, long.moment_sample, long.moment_decision)
    measured[FILLER] = Measured(gap(grown, (S_s, S_d, M_s + extra * (V - 1) * stated.per_visit, M_d)))
    # At m* tokens of filler on the measured line through 0 and m. There is no crossing without a signal: what the
    # decider reads may say nothing about the reward, and S_d then is rounding.
    m_star = crossing_filler(stated, V)
    at_star = M_s + m_star * (long.moment_sample - M_s) / extra
    measured[CROSSING] = Measured(jnp.where(stated.signal_d > LEAST_SIGNAL, gap(S_d * at_star, S_s * M_d), 0.0))
    margin = (long.ratio_decision - long.ratio_sample) * jnp.sign(extra - m_star)
    measured[ORDER] = Measured(shortfall(margin), margin)

    # R - b at b = 0, b = J and b = FAR against the parabola whose least value is E[R^2 z] - rank b*^2.
    square = (e.law * e.reward)[..., None]
    first = (jnp.sum(square * e.square_s), jnp.sum(square * e.square_d))
    second = (jnp.sum(raw.moments_s), raw.moment_d)
    errors = []
    for r, b_sum, M_0, found in zip((rank_s, rank_d), first, second, (m.moment_sample, m.moment_decision), strict=True):
        best = b_sum / r
        errors += [gap(found[i], M_0 - r * best**2 + r * (b - best) ** 2) for i, b in ((0, J), (1, 0.0), (3, FAR))]
    measured[BASELINE] = Measured(jnp.max(jnp.stack(errors)))
    return measured | (_groups(setting)[0] if sizes.group else {})


def _parabola(setting: Setting) -> jax.Array:
    """M_c at b = FAR against the parabola through b = 0 and b = J with the rank as its curvature."""
    m, J, errors = setting.measured, _mean(setting.traj), []
    for r, M in zip(setting.ranks, (m.moment_sample, m.moment_decision), strict=True):
        best = (M[1] + r * J**2 - M[0]) / (2.0 * r * J)
        errors.append(gap(M[3], M[1] - r * best**2 + r * (FAR - best) ** 2))
    return jnp.max(jnp.stack(errors))


def _groups(setting: Setting) -> tuple[dict[str, Measured], dict[str, jax.Array]]:
    """Groups of G at one prompt, enumerated: (claims, controls)."""
    _, traj, _, m, rank, _, found = setting
    G = setting.lengthened.sizes.group
    variance = jnp.sum(traj.weight * (traj.reward - _mean(traj)) ** 2)
    S_s, S_d, M_s, M_d = _four(m, 0)
    noise = tuple(M - S for M, S in zip(found[0], (S_s, S_d), strict=True))
    pairs = ((S_s, M_s, rank[0]), (S_d, M_d, rank[1]))
    stated = tuple(group_noise(S, M, variance, r, G) for S, M, r in pairs)
    scaled = tuple((1 - 1 / G) ** 2 * M for M in found[0])
    claims = {GROUP: Measured(gap(noise, stated)), DR: Measured(gap(found[1], scaled))}
    controls = {
        CONTROLS[5].name: gap(noise, tuple((M - S) / G for S, M, _ in pairs)),
        CONTROLS[6].name: gap(noise, tuple((M - S + variance * r / (G - 1)) / G for S, M, r in pairs)),
    }
    return claims, controls


def check(setting: Setting) -> dict[str, Measured]:
    """What holds for every policy, and the closed forms of position-wise and of saturated ones."""
    lengthened, traj, payoffs, m, rank, _, _ = setting
    shape = lengthened.sizes.base
    measured = {BETWEEN: _between(payoffs[0], (m.moment_sample[0], m.moment_decision[0]), rank)}
    if shape.network:
        return measured | {BASELINE: Measured(_parabola(setting))}
    measured[RANK] = Measured(gap((m.moment_sample[2], m.moment_decision[2]), tuple(map(float, rank))))
    if not shape.graded and not shape.cost:
        J = _mean(traj)
        odds = jnp.maximum(J / (1 - J), (1 - J) / J)
        ratios = ((m.signal_sample[0], m.moment_sample[0]), (m.signal_decision[0], m.moment_decision[0]))
        margin = jnp.min(jnp.stack([odds / r - S / M for (S, M), r in zip(ratios, rank, strict=True)]))
        measured[BOUND] = Measured(shortfall(margin), margin)
    if lengthened.sizes.positionwise:
        return measured | _positionwise(setting)
    if not shape.shared:
        measured |= _saturated(setting)
    return measured


def control(setting: Setting) -> dict[str, jax.Array]:
    """Averages taken the wrong way, a decider that grows with the answer, and groups without their own noise."""
    lengthened, traj, payoffs, m, rank, long, _ = setting
    sizes, process, params = lengthened.sizes, lengthened.instance.process, lengthened.instance.params
    if not sizes.positionwise and not sizes.base.saturated:
        return {}
    found = (m.moment_sample[0], m.moment_decision[0])
    square = traj.weight * payoffs[0] ** 2
    if not sizes.positionwise:
        wrong = _of_contexts(process, traj.weight, context_counts(process, square), mirror=True)
        return {CONTROLS[3].name: gap(found, wrong)}
    assert long is not None
    V, extra = sizes.base.vocabulary, sizes.filler
    tau = jnp.sum(traj.sample_mask, -1) / sizes.base.length
    everything = lengthen(process, params, lengthened.filler_logits, sizes.base.length + extra)
    nosy = moments(exact(everything[0], everything[2], sizes.base.length + extra), _mean(traj)).moment_d
    by_prompt = [jax.ops.segment_sum(traj.weight * x, traj.group, traj.num_groups) for x in (payoffs[0] ** 2, tau)]
    once = jnp.sum(by_prompt[0] / by_prompt[1])
    errors = {
        CONTROLS[2].name: gap(long.moment_decision, nosy),
        CONTROLS[0].name: gap(found, tuple(jnp.sum(square) * r for r in rank)),
        CONTROLS[1].name: gap(long.moment_sample, m.moment_sample[0] + extra * (V - 1) * once),
        CONTROLS[4].name: gap(m.moment_sample[3], m.moment_sample[0]),
    }
    if sizes.group:
        errors |= _groups(setting)[1]
    return errors


SMALL_GROUP = 20  # trajectories of which all pairs are enumerated

VARIED = Requirement(
    "a verifier that does not give every answer the same reward",
    lambda process: bool(np.ptp(np.asarray(process.reward_table), axis=1).min() > 0),
)


def on_process(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Lengthening, ...]:
    """The given process with one filler token under a decider that reads the rest, and saturated policies on it."""
    del theorem
    pairs = 2 if process.num_prompts == 1 and process.num_trajectories <= SMALL_GROUP else 0
    saturated = (Lengthening(shape),) if shape.history == "full" else ()
    return (Lengthening(shape, reads=shape.length, filler=1, group=pairs), *saturated)


THEOREM = Theorem(
    id="T14",
    title="Only the sampler's signal-to-noise falls with length",
    statement="M_c = E[w^2 z_c], E[z_c] = rank F_c: L (V-1) for pi_sample, decision contexts for pi_d; S_s/M_s ~ 1/L",
    provenance="[N]",
    assumptions=(
        "position-wise sampler; the number of decision contexts does not depend on L",
        "one coefficient per trajectory; Fisher metric",
        "crossing: S_d > 0",
        "exact 1/L law: tokens that neither verifier nor decider reads; signal bounded by Var(R) (T3)",
    ),
    shapes=(
        Lengthening(Shape(rounds=2, length=2, vocabulary=2, prompts=2, history="none"), reads=1, filler=1),
        Lengthening(
            Shape(rounds=3, length=1, vocabulary=2, history="none", graded=True, cost=True), reads=1, filler=1, group=2
        ),
        Lengthening(Shape(rounds=2, length=1, vocabulary=5, graded=True, cost=True)),
        Lengthening(Shape(rounds=2, length=1, vocabulary=3, graded=True, network=True)),
        Lengthening(Shape(rounds=4, length=1, vocabulary=4, shared=3)),
        Lengthening(Shape(rounds=2, length=3, vocabulary=2, history="none", cost=True, shared=3)),
        Lengthening(Shape(rounds=2, length=4, vocabulary=2, shared=3)),
        Lengthening(Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=3)),
        Lengthening(Shape(rounds=2, length=6, vocabulary=2, history="none", shared=3)),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "E[z_c] = tr(F_c^+ E[score score^T]) = tr(F_c^+ F_c) = rank F_c, since scores of different tokens are "
        "uncorrelated; a softmax drawn n times has z = n/E[n] times Pearson's statistic of its counts. Filler is drawn "
        "tau times independently of w: E[w^2 tau] (V-1)/E[tau] each, and no signal. In a group the other members are "
        "independent of a member's score."
    ),
    draw=draw,
    requires=(RESAMPLES, MIXED_IF_BINARY, VARIED, SHORT),
    on_process=on_process,
    prepare=prepare,
    check=check,
    control=control,
)
