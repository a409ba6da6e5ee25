"""Attribution of one objective at one answer length, on the structured exact law of `long_answers`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.atlas.laws import ROUNDS, Scenario, Structure, parameters, structured_logp, trajectories
from dsjax.attribution import coefficients, pull_back_through, ratio
from dsjax.numerics import divide
from dsjax.objectives import Objective, resolve
from dsjax.policies import Params
from dsjax.signal_noise import SignalNoise
from dsjax.trajectories import Trajectories


class Blocks(struct.PyTreeNode):
    """One softmax a context: arrays over prompts (and first tokens) for the first token, a filler token, a decision."""

    first: jax.Array  # f[Q, 2]
    filler: jax.Array  # f[Q, 2] of each of the L - 1 filler positions
    decide: jax.Array  # f[Q, 2, 2]


class Measured(struct.PyTreeNode):
    """What one objective does at one length."""

    gradient: Blocks  # ascent direction of the expected objective, in logits
    true_gradient: Blocks  # grad J
    energy_sample: jax.Array
    energy_decision: jax.Array
    square_sample: jax.Array  # |G_s|^2 in logit space
    square_decision: jax.Array
    factor_ratio: jax.Array  # mean |decision coefficient| over mean |mean coefficient of an answer's tokens|
    token_ratio: jax.Array  # mean |decision coefficient| over mean |sampling coefficient|
    factor_gap: jax.Array  # largest difference of the two inside of a trajectory, relative to the largest coefficient
    token_gap: jax.Array
    block_share: jax.Array
    noise: SignalNoise
    scale: jax.Array  # <G, grad J>/<grad J, grad J> in the Fisher metric of the policy
    along: jax.Array  # |scale grad J| in that metric
    across: jax.Array  # |G - scale grad J|


def _inverse_fisher(
    a: Blocks, b: Blocks, visits: Blocks, law: Blocks, fillers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sampling, decision) part of a^T F^+ b: sum_v a_v b_v / (n pi_v) per softmax, for a, b that sum to 0 in each."""

    def part(x: jax.Array, y: jax.Array, n: jax.Array, p: jax.Array) -> jax.Array:
        mass = n * p
        return jnp.sum(divide(x * y, mass))

    first = part(a.first, b.first, visits.first, law.first)
    filler = part(a.filler, b.filler, visits.filler, law.filler)
    return first + fillers * filler, part(a.decide, b.decide, visits.decide, law.decide)


def _visits(x: Structure, num_prompts: int) -> Blocks:
    """Expected draws in each context (broadcast against the symbols)."""
    rounds = 1.0 + x.stop_round.astype(x.weight.dtype)
    answers = jax.ops.segment_sum(x.weight * rounds, x.prompt, num_prompts)[:, None]
    decided = jax.ops.segment_sum(x.weight, 2 * x.prompt + x.first[:, 0], 2 * num_prompts)
    return Blocks(answers, answers, decided.reshape(num_prompts, 2, 1))


def _per_trajectory(k_BxKxS: jax.Array, x: Structure, law: Blocks) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each trajectory's own ascent direction on (first, probe, decision) logits of its contexts, f[B, 2] each."""
    used = x.used[..., None]

    def score(index: jax.Array, p: jax.Array) -> jax.Array:
        return jax.nn.one_hot(index, 2, dtype=p.dtype) - p

    first = jnp.where(used, score(x.first, law.first[x.prompt][:, None]), 0.0)
    probe = jnp.where(used, score(x.probe, law.filler[x.prompt][:, None]), 0.0)
    decide = score(x.stop_round, law.decide[x.prompt, x.first[:, 0]])
    return (
        jnp.sum(k_BxKxS[..., 0, None] * first, 1),
        jnp.sum(k_BxKxS[..., 1, None] * probe, 1),
        k_BxKxS[:, 0, -1, None] * decide,
    )


def _moments(
    k_BxKxS: jax.Array, x: Structure, law: Blocks, visits: Blocks, fillers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(M_s, M_d) = E[g^T F^+ g] of one trajectory's gradient g (docs/theory.md, T14)."""
    first, probe, decide = _per_trajectory(k_BxKxS, x, law)

    def moment(g: jax.Array, n: jax.Array, p: jax.Array) -> jax.Array:
        mass = n * p
        return jnp.sum(x.weight * jnp.sum(divide(g * g, mass), -1))

    q, y = x.prompt, x.first[:, 0]
    sample = moment(first, visits.first[q], law.first[q]) + fillers * moment(probe, visits.filler[q], law.filler[q])
    return sample, moment(decide, visits.decide[q, y], law.decide[q, y])


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
    law = Blocks(**{name: jax.nn.softmax(logits) for name, logits in params.items()})
    fillers = (x.length - 1).astype(x.weight.dtype)

    def gradients(x: Structure, f: Objective) -> tuple[Trajectories, Params, Params]:
        traj = trajectories(scenario, x, longest)
        _, (g_s, g_d) = pull_back_through(
            lambda p: structured_logp(p, x, longest), params, traj, f, ("sample", "decision")
        )
        return traj, g_s, g_d

    traj, g_s, g_d = gradients(x, objective)
    G = Blocks(g_s["first"], g_s["filler"], g_d["decision"])
    _, j_s, j_d = gradients(own, resolve("reinforce"))
    J = Blocks(j_s["first"], j_s["filler"], j_d["decision"])

    visits, own_visits = _visits(x, Q), _visits(own, Q)
    E_s, E_d = _inverse_fisher(G, G, visits, law, fillers)

    def inner(a: Blocks, b: Blocks) -> jax.Array:
        sample, decision = _inverse_fisher(a, b, own_visits, law, fillers)
        return sample + decision

    scale = inner(G, J) / inner(J, J)
    rest = jax.tree.map(lambda g, j: g - scale * j, G, J)
    square_s = jnp.sum(G.first**2) + fillers * jnp.sum(G.filler**2)

    c_BxKxS = coefficients(objective, structured_logp(params, x, longest), traj).reshape(-1, ROUNDS, longest + 1)
    used_BxK = x.used
    length = x.length.astype(x.weight.dtype)
    first_BxK, probe_BxK, decision_B = c_BxKxS[..., 0], c_BxKxS[..., 1], c_BxKxS[:, 0, -1]
    # The probe stands for every filler token: their mean absolute coefficient is its.
    tokens_BxK = jnp.abs(first_BxK) + fillers * jnp.abs(probe_BxK)
    factors_BxK = jnp.sum(c_BxKxS[..., :-1], -1) / length
    answers_B = jnp.sum(used_BxK, -1).astype(length.dtype)
    token_s, token_d = jnp.sum(tokens_BxK), jnp.sum(jnp.abs(decision_B))
    token_mean = jnp.sum(jnp.sum(tokens_BxK, -1) / (length * answers_B))
    factor_mean = jnp.sum(jnp.sum(jnp.abs(factors_BxK), -1) / answers_B)

    w = x.weight[:, None, None]
    k_BxKxS = divide(c_BxKxS, w)
    largest = jnp.max(jnp.abs(k_BxKxS))

    def off(k_BxK: jax.Array, counts: jax.Array) -> jax.Array:
        """Largest distance to the decision's coefficient in the same trajectory."""
        distance = jnp.where(used_BxK & counts & (x.weight > 0)[:, None], k_BxK - k_BxKxS[:, :1, -1], 0.0)
        return ratio(jnp.max(jnp.abs(distance)), largest)

    everywhere = jnp.asarray(True)
    token_gap = jnp.maximum(off(k_BxKxS[..., 0], everywhere), off(k_BxKxS[..., 1], x.length > 1))
    factor_gap = off(jnp.sum(k_BxKxS[..., :-1], -1) / length, everywhere)
    M_s, M_d = _moments(k_BxKxS, x, law, visits, fillers)
    return Measured(
        gradient=G,
        true_gradient=J,
        energy_sample=E_s,
        energy_decision=E_d,
        square_sample=square_s,
        square_decision=jnp.sum(G.decide**2),
        factor_ratio=ratio(token_d, factor_mean),
        token_ratio=ratio(token_d, token_mean),
        factor_gap=factor_gap,
        token_gap=token_gap,
        block_share=ratio(token_d, token_s + token_d),
        noise=SignalNoise(E_s, E_d, M_s, M_d),
        scale=scale,
        along=jnp.abs(scale) * jnp.sqrt(inner(J, J)),
        across=jnp.sqrt(inner(rest, rest)),
    )
