"""Sampling rounds of answers and decisions from any policy, inside of one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dsjax.config import is_finite
from dsjax.errors import require
from dsjax.policies.base import Params, Policy, select
from dsjax.trajectories import RESAMPLE, STOP, Trajectories


class Rounds(struct.PyTreeNode):
    """T rounds for each of B prompts, as if every decision before had been RESAMPLE."""

    answers: jax.Array  # i32[B, T, L]
    decisions: jax.Array  # i32[B, T] STOP or RESAMPLE; the last one is drawn too, but has no effect
    logp_answers: jax.Array  # f[B, T, L] nats
    log_decision: jax.Array  # f[B, T, 2] nats: both decisions

    @property
    def stop_round(self) -> jax.Array:
        """i32[B]: the first round with STOP, else the last."""
        stops = (self.decisions == STOP).at[:, -1].set(True)
        return jnp.argmax(stops, axis=-1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("rounds", "stop_early"))
def sample(
    policy: Policy,
    params: Params,
    prompt_BxP: jax.Array,
    key: jax.Array,
    *,
    rounds: int,
    temperature: float | jax.Array = 1.0,
    stop_early: bool = False,
) -> Rounds:
    """Draw T rounds a prompt, with the log-probs of both components.

    With history `none` the rounds of an episode are drawn side by side, otherwise one after the other. Log-probs are
    those of the law that drew the tokens: the policy's logits divided by `temperature`.

    Args:
      policy: any `Policy`; it decodes by its `start` and `step`.
      params: parameters.
      prompt_BxP: i32[B, P].
      key: PRNG key.
      rounds: T >= 1 (static).
      temperature: > 0; checked outside of a trace by `require_temperature`.
      stop_early: with history, end when every episode has stopped (static); rounds that nobody came to are 0. Rounds
        without history are drawn side by side, so nothing is saved there.
    """
    require(rounds >= 1, "rounds", rounds, "T >= 1")
    memoryless = policy.history == "none"
    L, B = policy.length, prompt_BxP.shape[0]
    n = rounds if memoryless else 1

    def token(carry: tuple[Any, jax.Array], xs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Any]:
        state, ids_Bxn = carry
        first_round, offset, step_key = xs
        log_s, log_d, state = policy.step(params, state, ids_Bxn, first_round, offset, rounds)
        log_s = jax.nn.log_softmax(log_s / temperature)
        log_d = jax.nn.log_softmax(log_d / temperature)
        answer_key, decision_key = jax.random.split(step_key)
        ids_Bxn = jax.random.categorical(answer_key, log_s).astype(jnp.int32)
        decision_Bxn = jax.random.categorical(decision_key, log_d).astype(jnp.int32)
        return (state, ids_Bxn), (ids_Bxn, select(log_s, ids_Bxn), decision_Bxn, log_d)

    def one_round(state: Any, first_round: Any, round_key: jax.Array) -> tuple[Any, Any]:
        offsets = jnp.arange(L + 1, dtype=jnp.int32)
        firsts = jnp.full((L + 1,), first_round, jnp.int32)
        opening = jnp.full((B, n), policy.attempt_id, jnp.int32)
        (state, _), drawn = jax.lax.scan(token, (state, opening), (firsts, offsets, jax.random.split(round_key, L + 1)))
        ids, logp, decision, log_d = drawn
        # Slot j of a round is drawn from the output at offset j; decisions come from the last one.
        return state, (ids[:L], logp[:L], decision[L], log_d[L])

    state = policy.start(params, prompt_BxP, rounds)
    steps = 1 if memoryless else rounds
    keys = jax.random.split(key, steps)
    if stop_early and steps > 1:
        drawn = _rounds_while_needed(one_round, state, keys, B)
    else:
        xs = (jnp.arange(steps, dtype=jnp.int32), keys)
        _, drawn = jax.lax.scan(lambda state, x: one_round(state, *x), state, xs)
    ids, logp, decision, log_d = drawn

    def rounds_first(x_RxLxBxn: jax.Array) -> jax.Array:
        return x_RxLxBxn.transpose(2, 0, 3, 1).reshape(B, rounds, L)

    return Rounds(
        answers=rounds_first(ids),
        decisions=decision.transpose(1, 0, 2).reshape(B, rounds),
        logp_answers=rounds_first(logp),
        log_decision=log_d.transpose(1, 0, 2, 3).reshape(B, rounds, 2),
    )


def _rounds_while_needed(
    draw_round: Callable[[Any, Any, jax.Array], tuple[Any, Any]], state: Any, keys_R: jax.Array, batch: int
) -> Any:
    """What a scan over the rounds gives, up to the round in which the last episode stops; zeros after it."""
    rounds = keys_R.shape[0]
    shapes = jax.eval_shape(draw_round, state, jnp.zeros((), jnp.int32), keys_R[0])[1]
    nothing = jax.tree.map(lambda x: jnp.zeros((rounds, *x.shape), x.dtype), shapes)

    def needed(carry: tuple[jax.Array, Any, Any, jax.Array]) -> jax.Array:
        t, _, _, stopped_B = carry
        return (t < rounds) & ~jnp.all(stopped_B)

    def one(carry: tuple[jax.Array, Any, Any, jax.Array]) -> tuple[jax.Array, Any, Any, jax.Array]:
        t, state, drawn, stopped_B = carry
        state, new = draw_round(state, t, keys_R[t])
        drawn = jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, t, 0), drawn, new)
        return t + 1, state, drawn, stopped_B | (new[2][:, 0] == STOP)

    start = (jnp.zeros((), jnp.int32), state, nothing, jnp.zeros((batch,), bool))
    return jax.lax.while_loop(needed, one, start)[2]


def require_temperature(temperature: float) -> None:
    """Raise `InputError` unless temperature is > 0 and finite."""
    ok = is_finite(temperature) and temperature > 0
    require(ok, "temperature", temperature, "> 0 and finite (greedy decoding is the limit, not a value)")


def to_trajectories(
    prompt_BxP: jax.Array,
    drawn: Rounds,
    score_BxT: jax.Array,
    *,
    cost: float = 0.0,
    group: jax.Array | None = None,
    num_groups: int = 1,
) -> Trajectories:
    """Level-3 trajectories: stop at the first STOP, R = score of that round - cost x (tau - 1), weight 1/B."""
    B, T, L = drawn.answers.shape
    stop_B = drawn.stop_round
    stopped = jax.nn.one_hot(stop_B, T, dtype=score_BxT.dtype)
    reward_B = jnp.sum(stopped * score_BxT, axis=-1) - cost * stop_B.astype(score_BxT.dtype)
    traj = Trajectories.from_rounds(
        prompt=prompt_BxP,
        answers=drawn.answers,
        stop_round=stop_B,
        horizon=T,
        reward=reward_B,
        weight=jnp.full((B,), 1.0 / B, reward_B.dtype),
        group=jnp.zeros((B,), jnp.int32) if group is None else group,
        num_groups=num_groups,
    )
    decided = jnp.where(jnp.arange(T, dtype=jnp.int32)[None] < stop_B[:, None], RESAMPLE, STOP)
    logp = jnp.concatenate([drawn.logp_answers, select(drawn.log_decision, decided)[..., None]], axis=-1)
    return traj.replace(old_logp=jnp.where(traj.mask, logp.reshape(B, T * (L + 1)), 0.0))
