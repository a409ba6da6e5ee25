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
from proofs_check.extremes import WITHOUT_REFERENCE, Spared
from proofs_check.filler import lengthen
from proofs_check.instances import Instance, Shape, Traced
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import MIXED_IF_BINARY, RESAMPLES, Requirement
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t04_length_invariance.numeric import SHORT

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
    def saturated(self) -> bool:
        """Whether it has the tables of its shape."""
        return self.base.saturated and not self.positionwise

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


def draw(key: jax.Array, sizes: Lengthening, process: DecisionSamplingProcess | None = None) -> Lengthened:
    """A random instance; a position-wise policy takes the place of the saturated one where the sizes ask for it."""
    base_key, filler_key = jax.random.split(key)
    instance = instances.draw(base_key, sizes.base, process)
    shape = sizes.base
    if sizes.positionwise:
        policy = Traced(PositionwisePolicy(shape.prompts, shape.vocabulary, shape.length, sizes.reads))
        params = policy.init(instance.key)
        instance = instance.replace(policy=policy, params=params, reference=params)  # which no statement here has
    # At least one, used or not: an array without entries does not survive a file.
    filler = instances.normal(filler_key, shape.prompts, max(sizes.filler, 1), shape.vocabulary)
    return Lengthened(instance, filler, sizes)


def ranks(sizes: Lengthening, parameters: int) -> tuple[int, int]:
    """(rank F_s, rank F_d), counted: directions in which the component's softmaxes can move, at most the parameters.

    An upper bound for a network: its Fisher matrix can have any small eigenvalue, and which of them count as zero is a
    matter of the cut.
    """
    shape = sizes.base
    Q, L, V, T = shape.prompts, shape.length, shape.vocabulary, shape.rounds
    if sizes.positionwise:
        return Q * L * (V - 1), Q * V**sizes.reads
    A = V**L
    H_s, H_d = (sum(A**t for t in range(n)) if shape.history == "full" else 1 for n in (T, T - 1))
    free_s, free_d = Q * H_s * (A - 1), Q * H_d * A
    return min(free_s, parameters), min(free_d, parameters)


def measure(policy: Policy, params: Params, traj: Trajectories, payoffs_KxB: jax.Array) -> SignalNoise:
    """The library's signals and second moments of REINFORCE with each payoff as its weight; fields f[K]."""
    fishers = fisher(policy, params, traj)

    def one(payoff_B: jax.Array) -> SignalNoise:
        return signal_to_noise(policy, params, traj.replace(reward=payoff_B), reinforce, fishers=fishers)

    return jax.vmap(one)(payoffs_KxB)


def centred(traj: Trajectories) -> jax.Array:
    """w = R - J."""
    return advantage("batch_mean", traj.reward, traj)


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
    log_pi, log_delta = jax.nn.log_softmax(params["sample"]), jax.nn.log_softmax(params["decision"])
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

    @property
    def four(self) -> tuple[jax.Array, ...]:
        """(S_s, S_d, M_s, M_d)."""
        return self.signal_s, self.signal_d, jnp.sum(self.moments_s), self.moment_d


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
    masks = [jnp.asarray(component_mask(traj, name)) for name in ("sample", "decision")]
    scores = jax.jacfwd(lambda p: log_probs(policy, unravel(p), traj))(flat)  # f[B, S, P]

    def gradient(i_G: jax.Array) -> jax.Array:
        chosen = traj.rows(i_G)
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


def of_contexts(process: DecisionSamplingProcess, law: jax.Array, squares: Params, *, mirror: bool = False) -> Params:
    """(M_s, M_d) as sum_x sum_v (1 - pi(v|x)) E[w^2 | x, v]; `squares`: expected sum of w^2 over the draws (x, v)."""

    def total(n: jax.Array, n_square: jax.Array) -> jax.Array:
        pi = n / jnp.sum(n, -1, keepdims=True)
        return jnp.sum((pi * (n.shape[-1] - 1) if mirror else 1.0 - pi) * n_square / n)

    counts = context_counts(process, law)
    return total(counts["sample"], squares["sample"]), total(counts["decision"], squares["decision"])


class Setting(instances.Setting):
    """What the library measures on the exact law, on that with filler, and on groups."""

    def __init__(self, lengthened: Lengthened):
        super().__init__(lengthened.instance)
        self.lengthened, self.sizes = lengthened, lengthened.sizes
        traj, reward = self.traj, self.returns
        self.J = jnp.sum(traj.weight * reward)
        self.variance = jnp.sum(traj.weight * (reward - self.J) ** 2)
        self.filler_tokens = self.sizes.filler * (self.shape.vocabulary - 1)  # m (V-1)
        # w = R - J, w = R, w = 1, w = R - FAR; fields f[4].
        self.payoffs = jnp.stack([centred(traj), reward, jnp.ones_like(reward), reward - FAR])
        self.measured = measure(self.policy, self.params, traj, self.payoffs)
        self.signal = self.measured.signal_sample, self.measured.signal_decision
        self.moment = self.measured.moment_sample, self.measured.moment_decision
        self.ranks = ranks(self.sizes, ravel_pytree(self.params)[0].size)
        # (S_c, M_c, rank F_c) at w = R - J.
        self.components = [(S[0], M[0], r) for S, M, r in zip(self.signal, self.moment, self.ranks, strict=True)]
        if self.sizes.positionwise:  # in closed form, for w = R - J and w = R, and with filler, for w = R - J
            self.exact = exact(self.process, self.params, self.sizes.reads)
            self.stated, self.raw = moments(self.exact, self.J), moments(self.exact, 0.0)
            longer, policy, params = lengthen(self.process, self.params, lengthened.filler_logits, self.sizes.reads)
            traj = longer.enumerate_trajectories(policy, params, static=True)
            self.longer = jax.tree.map(lambda x: x[0], measure(policy, params, traj, centred(traj)[None]))
        if self.sizes.group:  # (M_s, M_d): leave-one-out, group mean
            baselines = [partial(reinforce, baseline=name) for name in ("leave_one_out", "batch_mean")]
            self.groups = group_moments(self.policy, self.params, self.traj, baselines, self.sizes.group)
            self.group_noise = tuple(M - S for M, (S, _, _) in zip(self.groups[0], self.components, strict=True))

    def four(self, i: int) -> tuple[jax.Array, ...]:
        """(S_s, S_d, M_s, M_d) at a payoff."""
        return tuple(x[i] for x in (*self.signal, *self.moment))


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
    STATEMENTS["T14"],
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
    spared=(
        WITHOUT_REFERENCE,
        Spared(
            "sharp",
            "few contexts are left in which more than one token is drawn: shared parameters are nearly collinear",
            ("w = 1: M_c = rank F_c, the number of free directions",),
            when=lambda sizes: sizes.base.shared > 0,
        ),
        Spared(
            "sharp",
            "likely symbols of a softmax are collinear but for the probability of the others, which nears the rank cut",
            (
                "one softmax a context and round: M_c = sum_x sum_v (1 - pi(v|x)) E[w^2 | x, v]",
                "one coefficient a token: the same with E[k^2 | x, v]",
            ),
        ),
    ),
    draw=draw,
    requires=(RESAMPLES, MIXED_IF_BINARY, VARIED, SHORT),
    on_process=on_process,
    tolerance=ENERGY,
    prepare=Setting,
)

everywhere = THEOREM.on()
counted = THEOREM.on(lambda sizes: not sizes.base.network)
positionwise = THEOREM.on(lambda sizes: sizes.positionwise)
saturated = THEOREM.on(lambda sizes: sizes.saturated)
in_groups = THEOREM.on(lambda sizes: sizes.group > 0)

# A second moment is an average of energies, all >= 0: it has the relative accuracy of an energy.
counted.equation(
    "w = 1: M_c = rank F_c, the number of free directions",
    lambda s: gap(s.four(2)[2:], tuple(map(float, s.ranks))),
)


@counted.inequality("min w^2 rank F_c <= M_c")
def _least(s: Setting) -> jax.Array:
    low = jnp.min(s.payoffs[0] ** 2)
    return jnp.min(jnp.stack([M - low * r for _, M, r in s.components]))


@everywhere.inequality("M_c <= max w^2 rank F_c, rank F_c <= free directions and <= parameters")
def _most(s: Setting) -> jax.Array:
    high = jnp.max(s.payoffs[0] ** 2)
    return jnp.min(jnp.stack([high * r - M for _, M, r in s.components]))


@THEOREM.on(lambda sizes: not (sizes.base.network or sizes.base.graded or sizes.base.cost)).inequality(
    "binary, c = 0: S_c/M_c <= max(J/(1-J), (1-J)/J) / rank F_c"
)
def _odds(s: Setting) -> jax.Array:
    odds = jnp.maximum(s.J / (1 - s.J), (1 - s.J) / s.J)
    return jnp.min(jnp.stack([odds / r - S / M for S, M, r in s.components]))


closed = positionwise.equation(
    "position-wise: S_c and M_c from Pearson's statistic of the counts, w = R - J",
    lambda s: gap(s.four(0), s.stated.four),
)
positionwise.equation("position-wise: the same for w = R", lambda s: gap(s.four(1), s.raw.four))


def _by_context(s: Setting, *, mirror: bool = False) -> jax.Array:
    law = s.traj.weight
    squares = context_counts(s.process, law * s.payoffs[0] ** 2)
    return gap(s.four(0)[2:], of_contexts(s.process, law, squares, mirror=mirror))


contexts = saturated.equation(
    "one softmax a context and round: M_c = sum_x sum_v (1 - pi(v|x)) E[w^2 | x, v]", _by_context
)


@THEOREM.on(lambda sizes: sizes.saturated and sizes.base.rounds == 2).equation(
    "one coefficient a token: the same with E[k^2 | x, v]"
)
def _by_token(s: Setting) -> jax.Array:
    process, traj, law = s.process, s.traj, s.traj.weight
    advantage_BxS = process.token_advantages(s.values)

    def causal(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        """A user's own objective, one coefficient a token: that token's causal advantage."""
        return aggregate(-advantage_BxS * logp_BxS, traj, "sequence_sum")

    found = signal_to_noise(s.policy, s.params, traj, causal)
    # Round by round: block t of the token axis holds A^s_t (on its L tokens) and A^d_t; history index 0 is round 1.
    rows = traj.blocks(advantage_BxS, process.length)
    first, second = (context_counts(process, law * rows[:, t, 0] ** 2)["sample"] for t in range(2))
    squares = {
        "sample": jnp.concatenate([first[:, :1], second[:, 1:]], axis=1),
        "decision": context_counts(process, law * rows[:, 0, -1] ** 2)["decision"],
    }
    return gap((found.moment_sample, found.moment_decision), of_contexts(process, law, squares))


@THEOREM.on(lambda sizes: sizes.positionwise and sizes.base.length > sizes.reads).inequality(
    "tokens that the decider does not read: |M_s - L (V-1) E[tau w^2]/E[tau]| <= const sqrt(L)"
)
def _root(s: Setting) -> jax.Array:
    V, reads = s.shape.vocabulary, s.sizes.reads
    unread = (s.shape.length - reads) * (V - 1) * s.stated.per_visit
    excess = s.moment[0][0] - jnp.sum(s.stated.moments_s[:reads]) - unread
    return root_bound(s.exact, s.J, reads, V) - jnp.abs(excess)


@positionwise.equation("m filler tokens: M_s grows by m (V-1) E[tau w^2]/E[tau]; S_s, S_d, M_d as before")
def _filler(s: Setting) -> jax.Array:
    S_s, S_d, M_s, M_d = s.four(0)
    m = s.longer
    grown = (m.signal_sample, m.signal_decision, m.moment_sample, m.moment_decision)
    return gap(grown, (S_s, S_d, M_s + s.filler_tokens * s.stated.per_visit, M_d))


@positionwise.equation("crossing: at L* both ratios S_c/M_c agree")
def _crossing(s: Setting) -> jax.Array:
    """At m* tokens of filler on the measured line through 0 and m.

    There is no crossing without a signal: what the decider reads may say nothing about the reward, and S_d then is
    rounding.
    """
    S_s, S_d, M_s, M_d = s.four(0)
    m_star = crossing_filler(s.stated, s.shape.vocabulary)
    at_star = M_s + m_star * (s.longer.moment_sample - M_s) / s.sizes.filler
    return jnp.where(s.stated.signal_d > LEAST_SIGNAL, gap(S_d * at_star, S_s * M_d), 0.0)


@positionwise.inequality("S_d/M_d > S_s/M_s iff L > L*")
def _order(s: Setting) -> jax.Array:
    further = s.sizes.filler - crossing_filler(s.stated, s.shape.vocabulary)
    return (s.longer.ratio_decision - s.longer.ratio_sample) * jnp.sign(further)


@positionwise.equation("constant baseline: M_c(b) = M_c(b*) + rank F_c (b - b*)^2, b*_c = E[R z_c]/rank F_c")
def baseline(s: Setting) -> jax.Array:
    """R - b at b = 0, b = J and b = FAR against the parabola in b, with E[R^2 z] and E[R z] from the counts."""
    square = (s.exact.law * s.exact.reward)[..., None]
    first = jnp.sum(square * s.exact.square_s), jnp.sum(square * s.exact.square_d)
    best = [b_sum / r for b_sum, r in zip(first, s.ranks, strict=True)]
    errors = [
        gap(M[i], zero - r * b_star**2 + r * (b - b_star) ** 2)
        for M, zero, b_star, r in zip(s.moment, s.raw.four[2:], best, s.ranks, strict=True)
        for i, b in ((0, s.J), (1, 0.0), (3, FAR))
    ]
    return jnp.max(jnp.stack(errors))


group = in_groups.equation(
    "G trajectories, leave-one-out: G noise = M_c - S_c + (Var(R) rank F_c + S_c)/(G-1)",
    lambda s: gap(s.group_noise, tuple(group_noise(S, M, s.variance, r, s.sizes.group) for S, M, r in s.components)),
)
in_groups.equation(
    "G trajectories, group mean: (G-1)/G of the gradient, so the same ratio",
    lambda s: gap(s.groups[1], tuple((1 - 1 / s.sizes.group) ** 2 * M for M in s.groups[0])),
)

positionwise.control(
    "'~' read as '=': M_c = E[w^2] rank F_c",
    closed,
    lambda s: gap(s.four(0)[2:], tuple(jnp.sum(s.traj.weight * s.payoffs[0] ** 2) * r for r in s.ranks)),
)


@positionwise.control("filler drawn once a trajectory: m (V-1) E[w^2]/E[tau]", _filler)
def _once(s: Setting) -> jax.Array:
    traj, tau = s.traj, jnp.sum(s.traj.sample_mask, -1) / s.shape.length
    by_prompt = [jax.ops.segment_sum(traj.weight * x, traj.group, traj.num_groups) for x in (s.payoffs[0] ** 2, tau)]
    return gap(s.longer.moment_sample, s.moment[0][0] + s.filler_tokens * jnp.sum(by_prompt[0] / by_prompt[1]))


@positionwise.control("a decider that can read the filler, with the same law", _filler)
def _nosy(s: Setting) -> jax.Array:
    reads = s.shape.length + s.sizes.filler
    process, _, params = lengthen(s.process, s.params, s.lengthened.filler_logits, reads)
    return gap(s.longer.moment_decision, moments(exact(process, params, reads), s.J).moment_d)


saturated.control("E[w^2 | x, v] averaged under pi instead of 1 - pi", contexts, lambda s: _by_context(s, mirror=True))
positionwise.control("M_c does not depend on the baseline", baseline, lambda s: gap(s.moment[0][3], s.moment[0][0]))
in_groups.control(
    "leave-one-out baseline as good as J: noise (M_c - S_c)/G",
    group,
    lambda s: gap(s.group_noise, tuple((M - S) / s.sizes.group for S, M, _ in s.components)),
)


@in_groups.control("members of a group taken as independent: S_c/(G-1) left out", group)
def _independent(s: Setting) -> jax.Array:
    G = s.sizes.group
    return gap(s.group_noise, tuple((M - S + s.variance * r / (G - 1)) / G for S, M, r in s.components))
