"""Attribution of one objective at one answer length, on the structured exact law of `laws`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.atlas.laws import ROUNDS, Laws, Scenario, Structure, parameters, structured_logp, trajectories
from dsjax.attribution import (
    SignalNoise,
    Tally,
    coefficients,
    per_token,
    ratio,
    share,
    token_spread,
)
from dsjax.numerics import divide
from dsjax.objectives import Entry, Objective, resolve
from dsjax.objectives.registry import defaults
from dsjax.trajectories import Trajectories


class Blocks(struct.PyTreeNode):
    """One softmax a context: arrays over prompts (and first tokens) for the first token, a filler token, a decision."""

    first: jax.Array  # f[Q, 2]
    filler: jax.Array  # f[Q, 2] of each of the L - 1 filler positions
    decision: jax.Array  # f[Q, 2, 2]


class Measured(struct.PyTreeNode):
    """What one objective does at one length."""

    gradient: Blocks  # ascent direction of the expected objective, in logits
    true_gradient: Blocks  # grad J
    energy_sample: jax.Array  # (iv)
    energy_decision: jax.Array
    square_sample: jax.Array  # |G_s|^2 in logit space
    square_decision: jax.Array
    factor_ratio: jax.Array  # (i): mean |k| of a decision over that of an answer
    token_ratio: jax.Array  # (ii): the same over that of a sampling token
    factor_gap: jax.Array  # largest difference of the two inside of a trajectory, relative to the largest coefficient
    token_gap: jax.Array  # the same between any two tokens
    block_share: jax.Array  # (iii)
    noise: SignalNoise
    scale: jax.Array  # <G, grad J>/<grad J, grad J> in the Fisher metric of the policy
    along: jax.Array  # |scale grad J| in that metric
    across: jax.Array  # |G - scale grad J|


def inverse_fisher(a: Blocks, b: Blocks, visits: Blocks, law: Blocks) -> Blocks:
    """a^T F^+ b by block, one filler position: sum_v a_v b_v / (n pi_v) per softmax, for a, b that sum to 0 in each."""
    return jax.tree.map(lambda x, y, n, p: jnp.sum(divide(x * y, n * p)), a, b, visits, law)


def visits_of(x: Structure, num_prompts: int) -> Blocks:
    """Expected draws in each context (broadcast against the symbols)."""
    rounds = 1.0 + x.stop_round.astype(x.weight.dtype)
    answers = jax.ops.segment_sum(x.weight * rounds, x.prompt, num_prompts)[:, None]
    decided = jax.ops.segment_sum(x.weight, 2 * x.prompt + x.first[:, 0], 2 * num_prompts)
    return Blocks(answers, answers, decided.reshape(num_prompts, 2, 1))


def softmaxes(policy: Laws) -> Blocks:
    """The policy's probabilities."""
    params = parameters(policy, len(policy.first))
    return Blocks(**{name: jax.nn.softmax(logits) for name, logits in params.items()})


def objective_on(entry: Entry, scenario: Scenario) -> Objective:
    """The objective; one that divides by a group's standard deviation must know the returns that occur."""
    objective = resolve(entry.objective, entry.options)
    options = defaults(objective) or {}
    advantages = [options.get(name) for name in ("advantage", "baseline")]
    normalised = any(isinstance(name, str) and name == "group_normalised" for name in advantages)
    if normalised and options.get("reward_support", ()) is None:
        return resolve(objective, reward_support=tuple(sorted({float(r) for r in scenario.reward.ravel()})))
    return objective


def _moments(
    k_BxKxS: jax.Array, x: Structure, law: Blocks, visits: Blocks, fillers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(M_s, M_d) = E[g^T F^+ g] of one trajectory's gradient g (docs/theory.md, T14)."""
    q, y = x.prompt, x.first[:, 0]

    def score(index: jax.Array, p: jax.Array) -> jax.Array:
        return jax.nn.one_hot(index, 2, dtype=p.dtype) - p

    def over_rounds(k_BxK: jax.Array, index_BxK: jax.Array, p_Bx2: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(x.used[..., None], k_BxK[..., None] * score(index_BxK, p_Bx2[:, None]), 0.0), 1)

    def moment(g: jax.Array, n: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.sum(x.weight * jnp.sum(divide(g * g, n * p), -1))

    first, filler, decide = law.first[q], law.filler[q], law.decision[q, y]
    sample = moment(over_rounds(k_BxKxS[..., 0], x.first, first), visits.first[q], first)
    probe = moment(over_rounds(k_BxKxS[..., 1], x.probe, filler), visits.filler[q], filler)
    decision = moment(k_BxKxS[:, 0, -1, None] * score(x.stop_round, decide), visits.decision[q, y], decide)
    return sample + fillers * probe, decision


class Shown(struct.PyTreeNode):
    """What an objective is asked on at one length, laid out for answers of up to `longest` tokens."""

    structure: Structure
    traj: Trajectories
    logp: jax.Array  # f[B, S] of the policy

    @property
    def longest(self) -> int:
        """Tokens of the padded answers; the length itself is data."""
        return self.logp.shape[-1] // ROUNDS - 1


class Truth(struct.PyTreeNode):
    """What the bias is measured against: of the policy's own trajectories."""

    gradient: Blocks  # grad J
    visits: Blocks


def show(scenario: Scenario, x: Structure, longest: int) -> Shown:
    """A structure as trajectories with their log-probs."""
    params = parameters(scenario.policy, scenario.num_prompts)
    return Shown(x, trajectories(scenario, x, longest), structured_logp(params, x, longest))


def gradient(policy: Laws, c_BxS: jax.Array, x: Structure) -> Blocks:
    """The ascent direction with these coefficients."""
    longest = c_BxS.shape[-1] // ROUNDS - 1
    _, pull = jax.vjp(partial(structured_logp, x=x, longest=longest), parameters(policy, len(policy.first)))
    return Blocks(**pull(c_BxS)[0])


def truth(policy: Laws, own: Shown) -> Truth:
    """grad J, that of REINFORCE without a baseline, and the visits to each context."""
    c_BxS = coefficients(resolve("reinforce"), own.logp, own.traj)
    return Truth(gradient(policy, c_BxS, own.structure), visits_of(own.structure, len(policy.first)))


def analyse(policy: Laws, c_BxS: jax.Array, seen: Shown, true: Truth) -> Measured:
    """Every quantity of an objective with these coefficients: one program for all objectives.

    Sums over tokens are over the axis of the layout: a scatter by rounds took half of the time.
    """
    x, traj, longest = seen.structure, seen.traj, seen.longest
    law, visits = softmaxes(policy), visits_of(x, len(policy.first))
    fillers = (x.length - 1).astype(x.weight.dtype)
    G, J = gradient(policy, c_BxS, x), true.gradient

    def inner_of(a: Blocks, b: Blocks, visits: Blocks) -> tuple[jax.Array, jax.Array]:
        """(sampling, decision) part of a^T F^+ b."""
        part = inverse_fisher(a, b, visits, law)
        return part.first + fillers * part.filler, part.decision

    E_s, E_d = inner_of(G, G, visits)

    def inner(a: Blocks, b: Blocks) -> jax.Array:
        sample, decision = inner_of(a, b, true.visits)
        return sample + decision

    scale = inner(G, J) / inner(J, J)
    rest = jax.tree.map(lambda g, j: g - scale * j, G, J)
    square_s = jnp.sum(G.first**2) + fillers * jnp.sum(G.filler**2)

    c_BxKxS = c_BxS.reshape(-1, ROUNDS, longest + 1)
    # In absolute values the probe stands for every filler token; the mean of an answer takes all of them as they are.
    filler = (jnp.arange(longest + 1) >= 1) & (jnp.arange(longest + 1) < longest)
    tokens, decisions = per_token(jnp.where(filler[None, None], c_BxKxS[..., 1:2], c_BxKxS).reshape(c_BxS.shape), traj)

    def own_mean(tally: Tally) -> jax.Array:
        """Mean over trajectories of each one's own mean: a trajectory of two answers counts once."""
        return jnp.sum(x.weight * divide(tally.absolute, tally.count))

    k_BxKxS = divide(c_BxKxS, x.weight[:, None, None])
    answer_BxK = jnp.sum(k_BxKxS[..., :-1], -1) / x.length.astype(x.weight.dtype)  # the mean k of each answer
    answers = jnp.sum(x.weight * jnp.sum(jnp.abs(answer_BxK), -1) / (1.0 + x.stop_round.astype(x.weight.dtype)))
    # Largest distance to the decision's coefficient in the same trajectory.
    off_BxK = jnp.where(x.used & (x.weight > 0)[:, None], answer_BxK - k_BxKxS[:, :1, -1], 0.0)
    factor_gap = ratio(jnp.max(jnp.abs(off_BxK)), jnp.max(jnp.abs(k_BxKxS)))
    M_s, M_d = _moments(k_BxKxS, x, law, visits, fillers)
    return Measured(
        gradient=G,
        true_gradient=J,
        energy_sample=E_s,
        energy_decision=E_d,
        square_sample=square_s,
        square_decision=jnp.sum(G.decision**2),
        factor_ratio=ratio(own_mean(decisions), answers),
        token_ratio=ratio(own_mean(decisions), own_mean(tokens)),
        factor_gap=factor_gap,
        token_gap=token_spread(c_BxS, traj),
        block_share=share(jnp.sum(decisions.absolute), jnp.sum(tokens.absolute)),
        noise=SignalNoise(E_s, E_d, M_s, M_d),
        scale=scale,
        along=jnp.abs(scale) * jnp.sqrt(inner(J, J)),
        across=jnp.sqrt(inner(rest, rest)),
    )


def measure(objective: Objective, scenario: Scenario, x: Structure, own: Structure, longest: int) -> Measured:
    """Every quantity of one objective on one structure.

    Args:
      objective: what is measured.
      scenario: the process, policy, reference and demonstrations.
      x: what the objective sees: the policy's own trajectories or demonstrations.
      own: the policy's own trajectories, for grad J and for the metric in which the bias is measured.
      longest: tokens of the padded answers (static); the length itself is data.
    """
    seen, policy = show(scenario, x, longest), scenario.policy
    c_BxS = coefficients(objective, seen.logp, seen.traj)
    return analyse(policy, c_BxS, seen, truth(policy, show(scenario, own, longest)))
