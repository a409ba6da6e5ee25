"""Right-hand sides that several statements share, written from the definitions on dense tables.

Nothing here looks at a trajectory's tokens, at an objective or at a Fisher matrix: those are what is being checked.
Layouts are those of `SaturatedPolicy` (contexts) and `DecisionSamplingProcess` (rounds, histories, answers).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dsjax.numerics import divide
from dsjax.policies import Params, Policy, log_probs
from dsjax.process import DecisionSamplingProcess, Tables, Values, Visitation
from dsjax.trajectories import Trajectories


def attempts(process: DecisionSamplingProcess, traj: Trajectories) -> jax.Array:
    """i32[B]: tau, the answers of a trajectory, counted."""
    return jnp.sum(traj.sample_mask, axis=-1, dtype=jnp.int32) // process.length


def returns(process: DecisionSamplingProcess, traj: Trajectories) -> jax.Array:
    """f[B]: R = r(q, y_tau) - c (tau - 1), with the last answer spelt out and looked up in the reward table.

    Not the `reward` that the trajectories carry: that one is what is being checked.
    """
    tau, L = attempts(process, traj), process.length
    first = (tau - 1) * (L + 1)
    place = first[:, None] + jnp.arange(L, dtype=first.dtype)[None, :]
    code = jnp.zeros_like(tau)
    for token in jnp.take_along_axis(traj.tokens, place, axis=1).T:
        code = code * process.vocabulary + token
    reward = process.reward_table[traj.prompt[:, 0], code]
    return reward - process.cost * (tau - 1).astype(reward.dtype)


def by_context(process: DecisionSamplingProcess, blocks: list[jax.Array]) -> jax.Array:
    """[Q, H, ...] from one [Q, A^t, ...] array a round: histories side by side, or added up if the policy is blind."""
    if process.history == "full":
        return jnp.concatenate(blocks, axis=1)
    return jnp.sum(jnp.concatenate(blocks, axis=1), axis=1, keepdims=True)


def component_logp(policy: Policy, sampler: Params, decider: Params, traj: Trajectories) -> jax.Array:
    """f[B, S]: log-probs with each component at its own parameters, to freeze one of them."""
    return jnp.where(traj.sample_mask, log_probs(policy, sampler, traj), log_probs(policy, decider, traj))


def by_decider(process: DecisionSamplingProcess, rounds: tuple[jax.Array, ...]) -> jax.Array:
    """f[Q, H_d, A]: a law of decisions by the decider's context, from its T - 1 arrays [Q, A^t, A] by round."""
    return jnp.concatenate(rounds, axis=1) if process.history == "full" else rounds[0]


def _passing(process: DecisionSamplingProcess, weight_B: jax.Array) -> list[jax.Array]:
    """T arrays [Q, A^t, A]: mass of the trajectories that pass through (h_t, y_t), for any law on trajectories."""
    stopping = process.split(weight_B)
    passing = [stopping[-1]]
    for t in reversed(range(process.rounds - 1)):
        passing.insert(0, stopping[t] + passing[0].sum(-1).reshape(stopping[t].shape))
    return passing


def context_counts(process: DecisionSamplingProcess, weight_B: jax.Array) -> Params:
    """Expected number of draws of each token in each context, n(x, token), under any law on trajectories.

    Same layout as the parameters of `SaturatedPolicy`: {"sample": [Q, H_s, C, V], "decision": [Q, H_d, A, 2]}. The
    forced stop of the last round is no draw.
    """
    Q, A, V = process.num_prompts, process.num_answers, process.vocabulary
    passing, stopping = _passing(process, weight_B), process.split(weight_B)
    sample, decide = [], []
    for t in range(process.rounds):
        prefixes = [passing[t].reshape(Q, A**t, V**j, V, -1).sum(-1) for j in range(process.length)]
        sample.append(jnp.concatenate(prefixes, axis=2))
        if t < process.rounds - 1:
            decide.append(jnp.stack([stopping[t], passing[t] - stopping[t]], axis=-1))
    if not decide:
        decide.append(jnp.zeros((Q, 1, A, 2), weight_B.dtype))
    return {"sample": by_context(process, sample), "decision": by_context(process, decide)}


def tree_logits(process: DecisionSamplingProcess, log_law_QxHxA: jax.Array) -> jax.Array:
    """[Q, H, C, V]: token logits of a given law of whole answers, P(prefix + token) = sum over completions."""
    Q, H, _ = log_law_QxHxA.shape
    V = process.vocabulary
    levels = [jax.nn.logsumexp(log_law_QxHxA.reshape(Q, H, V**j, V, -1), axis=-1) for j in range(process.length)]
    return jnp.concatenate(levels, axis=2)


def _squares(mass: jax.Array, moment: jax.Array) -> jax.Array:
    """Sum of moment^2 / mass; 0 where nothing goes."""
    return jnp.sum(divide(moment**2, mass))


def late_baseline(values: Values) -> Values:
    """A wrong advantage for controls: V_t for V_(t+1), so V_t - U_t, in that of RESAMPLE."""
    wrong = [v[..., None] - u for v, u in zip(values.V[:-1], values.U[:-1], strict=True)]
    return values.replace(advantage_resample=tuple(wrong))


def martingale_energies(
    process: DecisionSamplingProcess, tables: Tables, values: Values, visitation: Visitation, *, merged: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(sum_t E[(A^s_t)^2], sum_t E[(A^d_t)^2]).

    `merged`: the same for a policy that cannot see round and history, where the squared advantage of a context is that
    of the average over the visits that share it: sum_x (sum_visits rho A)^2 / sum_visits rho.
    """
    rho, T = visitation.answer, process.rounds
    mass_s = [rho[t] for t in range(T)]
    moment_s = [rho[t] * values.advantage_sample[t] for t in range(T)]
    mass_d, moment_d = [jnp.zeros_like(rho[0])[..., None]], [jnp.zeros_like(rho[0])[..., None]]
    if T > 1:
        law = [jnp.exp(jnp.stack([tables.log_stop[t], tables.log_resample[t]], -1)) for t in range(T - 1)]
        both = [jnp.stack([values.advantage_stop[t], values.advantage_resample[t]], -1) for t in range(T - 1)]
        mass_d = [rho[t][..., None] * law[t] for t in range(T - 1)]
        moment_d = [m * a for m, a in zip(mass_d, both, strict=True)]

    def total(mass: list[jax.Array], moment: list[jax.Array]) -> jax.Array:
        m, a = jnp.concatenate(mass, axis=1), jnp.concatenate(moment, axis=1)
        return _squares(m.sum(1), a.sum(1)) if merged else _squares(m, a)

    return total(mass_s, moment_s), total(mass_d, moment_d)


def standardised(direction: jax.Array, log_dist: jax.Array) -> jax.Array:
    """Per context (last axis), the direction shifted and scaled to mean 0 and variance 1 under the distribution."""
    p = jnp.exp(log_dist)
    centred = direction - jnp.sum(p * direction, -1, keepdims=True)
    return centred / jnp.sqrt(jnp.sum(p * centred**2, -1, keepdims=True))


def drifted(direction: jax.Array, logits: jax.Array, size: float | jax.Array) -> jax.Array:
    """Logits of a reference with Var(log pi/pi_ref | x) = size^2 in every context, along a direction."""
    log_pi = jax.nn.log_softmax(logits)
    return log_pi - size * standardised(direction, log_pi)
