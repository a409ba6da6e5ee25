"""Level 1: decision-sampling processes small enough to enumerate, and their exact values.

Notation (docs/theory.md): prompt q ~ mu, rounds t = 1..T, answers of L tokens over V symbols (A = V^L of them),
verifier r(q, y) in [0, 1], resampling cost c, return R = r(q, y_tau) - c (tau - 1), objective J = E[R].

Enumeration order: blocks by stopping round tau = 1..T, inside a block lexicographic in (q, y_1, .., y_tau). So block
tau reshapes to [Q, A^(tau-1), A] = (prompt, history, answer), which turns every recursion into dense array algebra.
Histories of round t are numbered lexicographically, 0..A^(t-1)-1. Nothing below asks what the policy may see: a
policy without memory just gives equal probabilities on all histories.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.errors import InputError, require
from dsjax.policies.base import History, Params, Policy, log_probs
from dsjax.trajectories import Trajectories, is_concrete

TRAJECTORY_LIMIT = 1_000_000
MOST_BITS = 4096  # of V^(L T)


class ProcessTooLargeError(InputError):
    """The process has more trajectories than the limit; raised before any memory is used."""


class Tables(struct.PyTreeNode):
    """Log-probabilities (nats) of a policy on a process, by round: index t is round t + 1 of the theory."""

    log_sample: tuple[jax.Array, ...]  # T arrays [Q, A^t, A]: log pi_sample(y | h), whole answers
    log_stop: tuple[jax.Array, ...]  # T-1 arrays [Q, A^t, A]: log pi_d(STOP | h, y)
    log_resample: tuple[jax.Array, ...]  # T-1 arrays [Q, A^t, A]: log pi_d(RESAMPLE | h, y)


class Values(struct.PyTreeNode):
    """Conditional expectations of a payoff f (by default the return R), by round.

    Whole-trajectory convention: costs already paid are included. `V[t] = E[f | h]`, `U[t] = E[f | h, y]`. The
    return to go of the theory is `V[t] + c t`; advantages are the same in both conventions.
    """

    V: tuple[jax.Array, ...]  # T arrays [Q, A^t]
    U: tuple[jax.Array, ...]  # T arrays [Q, A^t, A]
    advantage_sample: tuple[jax.Array, ...]  # T arrays [Q, A^t, A]: U - V
    advantage_stop: tuple[jax.Array, ...]  # T-1 arrays [Q, A^t, A]: f - U
    advantage_resample: tuple[jax.Array, ...]  # T-1 arrays [Q, A^t, A]: V_next - U


class Visitation(struct.PyTreeNode):
    """Probability of reaching a state, prompt law included."""

    history: tuple[jax.Array, ...]  # T arrays [Q, A^t]: rho(h)
    answer: tuple[jax.Array, ...]  # T arrays [Q, A^t, A]: rho(h, y)


class DecisionSamplingProcess(struct.PyTreeNode):
    """A finite two-stage process; array fields may carry a batch axis under `vmap`."""

    prompt_law: jax.Array  # f[Q] probabilities mu(q)
    reward_table: jax.Array  # f[Q, A] rewards r(q, y) in [0, 1] by the verifier, y in lexicographic order, A = V^L
    cost: jax.Array  # f[] resampling cost c >= 0, in units of the reward
    vocabulary: int = struct.field(pytree_node=False)  # V
    length: int = struct.field(pytree_node=False)  # L
    rounds: int = struct.field(pytree_node=False)  # T
    history: History = struct.field(pytree_node=False, default="none")  # what a policy may see: `none` or `full`

    @classmethod
    def create(
        cls,
        *,
        prompt_law: jax.Array,
        reward_table: jax.Array,
        vocabulary: int,
        length: int,
        rounds: int,
        cost: float | jax.Array = 0.0,
        history: History = "none",
    ) -> DecisionSamplingProcess:
        """Build a checked process.

        Raises:
          InputError: for V < 2, L < 1, T < 1, c < 0, an unknown history, a prompt law that is not a law, a table of
            the wrong shape or with rewards outside of [0, 1].
        """
        for name, value, low, words in (
            ("vocabulary", vocabulary, 2, "V >= 2 symbols"),
            ("length", length, 1, "L >= 1 tokens"),
            ("rounds", rounds, 1, "T >= 1"),
        ):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            require(whole and value >= low, name, value, words)
        vocabulary, length, rounds = int(vocabulary), int(length), int(rounds)
        # Before a power is taken: A^T of 10^9 rounds has 10^9 bits.
        for name, value in (("length", length), ("rounds", rounds)):
            bits = value * math.log2(vocabulary) * (length if name == "rounds" else 1)
            allowed = f"one with at most 2^{MOST_BITS} answers or trajectories, which are enumerated"
            require(bits <= MOST_BITS, name, value, allowed)
        require(history in ("none", "full"), "history", history, ("none", "full"))
        prompt_law, reward_table = (
            x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
            for x in (jnp.asarray(prompt_law), jnp.asarray(reward_table))
        )
        shape = (*prompt_law.shape, vocabulary**length)
        require(prompt_law.ndim == 1, "prompt_law.shape", prompt_law.shape, "[Q]")
        require(reward_table.shape == shape, "reward_table.shape", reward_table.shape, f"[Q, V^L] = {shape}")
        cost = jnp.asarray(cost, reward_table.dtype)
        if is_concrete(prompt_law, reward_table, cost):
            law, table = np.asarray(prompt_law), np.asarray(reward_table)
            is_law = (law >= 0).all() and abs(law.sum() - 1) <= 4 * law.size * np.finfo(law.dtype).eps
            require(bool(is_law), "prompt_law", law, "probabilities that sum to 1")
            require(
                bool(((table >= 0) & (table <= 1)).all()),
                "reward_table",
                (table.min(), table.max()),
                "[0, 1]",
            )
            require(0 <= float(cost) < float("inf"), "cost", float(cost), "finite, c >= 0")
        return cls(prompt_law, reward_table, cost, vocabulary, length, rounds, history)

    def checked(self) -> DecisionSamplingProcess:
        """The same, made by `create`, for one that was made without its checks; errors as there."""
        return self.create(**{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def num_prompts(self) -> int:
        """Q."""
        return self.reward_table.shape[-2]

    @property
    def num_answers(self) -> int:
        """A = V^L."""
        return self.vocabulary**self.length

    @property
    def num_trajectories(self) -> int:
        """Q (A + A^2 + .. + A^T)."""
        return self.num_prompts * sum(self.num_answers**t for t in range(1, self.rounds + 1))

    def support(self, limit: int = TRAJECTORY_LIMIT, *, static: bool = False) -> Trajectories:
        """Every trajectory, without a policy's law yet: `weight` holds mu(q).

        Args:
          limit: of their number.
          static: whether tokens, masks, rounds, prompts and groups, which no parameter changes, are arrays of NumPy: no
            part of the program then inside of a trace, but a traced index takes rows of them by `Trajectories.rows`
            alone.

        Raises:
          ProcessTooLargeError: before any memory is used, if there are more than `limit` trajectories.
        """
        if self.num_trajectories > limit:
            raise ProcessTooLargeError(
                "number of trajectories",
                f"{self.num_trajectories:,}",
                f"at most {limit:,} (Q = {self.num_prompts}, V = {self.vocabulary}, L = {self.length}, "
                f"T = {self.rounds} give Q (A + .. + A^T) with A = V^L)",
            )
        A, T, L = self.num_answers, self.rounds, self.length
        prompts, answers, stops = [], [], []
        for tau in range(1, T + 1):
            code = np.arange(self.num_prompts * A**tau)
            digits = np.zeros((code.size, T), np.int32)
            for t in reversed(range(tau)):
                code, digits[:, t] = np.divmod(code, A)
            prompts.append(code.astype(np.int32))
            answers.append(digits)
            stops.append(np.full(code.size, tau - 1, np.int32))
        prompt_B, answer_BxT, stop_B = (np.concatenate(x) for x in (prompts, answers, stops))
        place_L = self.vocabulary ** np.arange(L)[::-1]
        tokens_BxTxL = (answer_BxT[..., None] // place_L) % self.vocabulary
        last_B = answer_BxT[np.arange(len(stop_B)), stop_B]
        dtype = self.reward_table.dtype
        reward_B = self.reward_table[prompt_B, last_B] - self.cost * jnp.asarray(stop_B, dtype)
        known: Any = np.asarray if static else jnp.asarray
        traj = Trajectories.from_rounds(
            prompt=known(prompt_B)[:, None],
            answers=known(tokens_BxTxL.astype(np.int32)),
            stop_round=known(stop_B),
            horizon=T,
            reward=reward_B,
            weight=self.prompt_law[prompt_B],
            group=known(prompt_B),
            num_groups=self.num_prompts,
        )
        return traj.replace(exact=True)

    def enumerate_trajectories(
        self, policy: Policy, params: Params, limit: int = TRAJECTORY_LIMIT, *, static: bool = False
    ) -> Trajectories:
        """`support` with each trajectory's probability under the policy, and `old_logp` = the policy's log-probs."""
        traj = self.support(limit, static=static)
        return traj.under(log_probs(policy, params, traj), prompt_weight=traj.weight)

    def split(self, x_B: jax.Array) -> tuple[jax.Array, ...]:
        """T arrays [Q, A^t, A] from a per-trajectory array: block t holds the trajectories that stop at round t."""
        Q, A = self.num_prompts, self.num_answers
        ends = np.cumsum([Q * A ** (t + 1) for t in range(self.rounds)])
        return tuple(block.reshape(Q, A**t, A) for t, block in enumerate(jnp.split(x_B, [int(e) for e in ends[:-1]])))

    def join(self, blocks: tuple[jax.Array, ...]) -> jax.Array:
        """Inverse of `split`."""
        return jnp.concatenate([block.reshape(-1) for block in blocks])

    def tables(self, logp_BxS: jax.Array) -> Tables:
        """The policy's conditional probabilities, read off its log-probs on `support()`; differentiable.

        A trajectory that stops at round t carries log pi_sample(y_t | h_t) and log pi_d(STOP | h_t, y_t); one that
        goes on carries log pi_d(RESAMPLE | h_t, y_t). That is all there is, for any policy.
        """
        Q, A, T = self.num_prompts, self.num_answers, self.rounds
        logp_BxTxL1 = logp_BxS.reshape(-1, T, self.length + 1)
        log_sample, log_stop, log_resample = [], [], []
        for t in range(T):
            log_sample.append(self.split(logp_BxTxL1[:, t, : self.length].sum(-1))[t])
            if t < T - 1:
                slot = self.split(logp_BxTxL1[:, t, self.length])
                log_stop.append(slot[t])
                log_resample.append(slot[t + 1].reshape(Q, A**t, A, A)[..., 0])
        return Tables(tuple(log_sample), tuple(log_stop), tuple(log_resample))

    def values(self, tables: Tables, payoff_B: jax.Array | None = None) -> Values:
        """Backward recursion for E[f | h] and E[f | h, y]; f = `payoff_B` on `support()`, by default the return.

        `U_t = pi_stop f + pi_res V_{t+1}`, `V_t = sum_y pi_sample(y) U_t`, with no decision at t = T.
        """
        A = self.num_answers
        payoff = self.split(self.support().reward if payoff_B is None else payoff_B)
        V: list[jax.Array] = []
        U: list[jax.Array] = []
        stop: list[jax.Array] = []
        resample: list[jax.Array] = []
        for t in reversed(range(self.rounds)):
            if t == self.rounds - 1:
                U.insert(0, payoff[t])
            else:
                next_V = V[0].reshape(payoff[t].shape)
                U_t = jnp.exp(tables.log_stop[t]) * payoff[t] + jnp.exp(tables.log_resample[t]) * next_V
                stop.insert(0, payoff[t] - U_t)
                resample.insert(0, next_V - U_t)
                U.insert(0, U_t)
            V.insert(0, jnp.sum(jnp.exp(tables.log_sample[t]) * U[0], axis=-1))
            assert V[0].shape == (self.num_prompts, A**t)
        sample = tuple(u - v[..., None] for u, v in zip(U, V, strict=True))
        return Values(tuple(V), tuple(U), sample, tuple(stop), tuple(resample))

    def expected_return(self, tables: Tables, payoff_B: jax.Array | None = None) -> jax.Array:
        """J = sum_q mu(q) V_1(q), differentiable in the tables."""
        return jnp.sum(self.prompt_law * self.values(tables, payoff_B).V[0][:, 0])

    def visitation(self, tables: Tables) -> Visitation:
        """Forward recursion: rho(h_1) = mu(q), rho(h, y) = rho(h) pi_sample(y), rho(h_{t+1}) = rho(h, y) pi_res."""
        history, answer = [self.prompt_law[:, None]], []
        for t in range(self.rounds):
            answer.append(history[t][..., None] * jnp.exp(tables.log_sample[t]))
            if t < self.rounds - 1:
                reached = answer[t] * jnp.exp(tables.log_resample[t])
                history.append(reached.reshape(self.num_prompts, -1))
        return Visitation(tuple(history), tuple(answer))

    def token_advantages(self, values: Values) -> jax.Array:
        """f[B, S]: each token's own causal advantage on `support()`: A^s on answer tokens, A^d on decisions.

        Zero where no decision is taken. Answer tokens of a round share the round's advantage.
        """
        Q, A, T, L = self.num_prompts, self.num_answers, self.rounds, self.length
        blocks = []
        for tau in range(T):
            columns = []
            for t in range(T):
                if t > tau:
                    sample = decision = jnp.zeros((Q, A**tau, A), self.reward_table.dtype)
                else:
                    later = (Q, *([A] * (t + 1)), A ** (tau - t))

                    def spread(x: jax.Array, later: tuple[int, ...] = later, tau: int = tau) -> jax.Array:
                        return jnp.broadcast_to(x.reshape(*later[:-1], 1), later).reshape(Q, A**tau, A)

                    sample = spread(values.advantage_sample[t])
                    if t == T - 1:
                        decision = jnp.zeros_like(sample)
                    elif t == tau:
                        decision = spread(values.advantage_stop[t])
                    else:
                        decision = spread(values.advantage_resample[t])
                columns.append(jnp.stack([sample] * L + [decision], axis=-1))
            blocks.append(jnp.concatenate(columns, axis=-1).reshape(-1, T * (L + 1)))
        return jnp.concatenate(blocks)
