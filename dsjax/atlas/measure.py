"""Attribution of one objective at one answer length, on the structured exact law of `laws`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.atlas.laws import ROUNDS, Scenario, Structure, parameters, structured_logp, trajectories
from dsjax.attribution import (
    SignalNoise,
    Tally,
    coefficients,
    per_factor,
    per_token,
    pull_back_through,
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


def softmaxes(scenario: Scenario) -> Blocks:
    """The policy's probabilities."""
    params = parameters(scenario.policy, scenario.num_prompts)
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


def measure(objective: Objective, scenario: Scenario, x: Structure, own: Structure, longest: int) -> Measured:
    """Every quantity of one objective on one structure.

    Args:
      objective: what is measured.
      scenario: the process, policy, reference and demonstrations.
      x: what the objective sees: the policy's own trajectories or demonstrations.
      own: the policy's own trajectories, for grad J and for the metric in which the bias is measured.
      longest: tokens of the padded answers (static); the length itself is data.
    """
    Q = scenario.num_prompts
    params = parameters(scenario.policy, Q)
    law = softmaxes(scenario)
    fillers = (x.length - 1).astype(x.weight.dtype)

    def gradient(x: Structure, traj: Trajectories, f: Objective) -> Blocks:
        logp_fn = partial(structured_logp, x=x, longest=longest)
        _, (g_s, g_d) = pull_back_through(logp_fn, params, traj, f, ("sample", "decision"))
        return Blocks(g_s["first"], g_s["filler"], g_d["decision"])

    traj = trajectories(scenario, x, longest)
    G = gradient(x, traj, objective)
    J = gradient(own, trajectories(scenario, own, longest), resolve("reinforce"))
    visits, own_visits = visits_of(x, Q), visits_of(own, Q)

    def inner_of(a: Blocks, b: Blocks, visits: Blocks) -> tuple[jax.Array, jax.Array]:
        """(sampling, decision) part of a^T F^+ b."""
        part = inverse_fisher(a, b, visits, law)
        return part.first + fillers * part.filler, part.decision

    E_s, E_d = inner_of(G, G, visits)

    def inner(a: Blocks, b: Blocks) -> jax.Array:
        sample, decision = inner_of(a, b, own_visits)
        return sample + decision

    scale = inner(G, J) / inner(J, J)
    rest = jax.tree.map(lambda g, j: g - scale * j, G, J)
    square_s = jnp.sum(G.first**2) + fillers * jnp.sum(G.filler**2)

    c_BxS = coefficients(objective, structured_logp(params, x, longest), traj)
    c_BxKxS = c_BxS.reshape(-1, ROUNDS, longest + 1)
    answers, decisions = per_factor(c_BxS, traj)
    # In absolute values the probe stands for every filler token; the mean of an answer takes all of them as they are.
    filler = (jnp.arange(longest + 1) >= 1) & (jnp.arange(longest + 1) < longest)
    tokens, _ = per_token(jnp.where(filler[None, None], c_BxKxS[..., 1:2], c_BxKxS).reshape(c_BxS.shape), traj)

    def own_mean(tally: Tally) -> jax.Array:
        """Mean over trajectories of each one's own mean: a trajectory of two answers counts once."""
        return jnp.sum(x.weight * divide(tally.absolute, tally.count))

    k_BxKxS = divide(c_BxKxS, x.weight[:, None, None])
    # Largest distance to the decision's coefficient in the same trajectory.
    answer_BxK = jnp.sum(k_BxKxS[..., :-1], -1) / x.length.astype(x.weight.dtype)
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
        factor_ratio=ratio(own_mean(decisions), own_mean(answers)),
        token_ratio=ratio(own_mean(decisions), own_mean(tokens)),
        factor_gap=factor_gap,
        token_gap=token_spread(c_BxS, traj),
        block_share=share(jnp.sum(decisions.absolute), jnp.sum(tokens.absolute)),
        noise=SignalNoise(E_s, E_d, M_s, M_d),
        scale=scale,
        along=jnp.abs(scale) * jnp.sqrt(inner(J, J)),
        across=jnp.sqrt(inner(rest, rest)),
    )
