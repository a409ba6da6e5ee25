"""`Trajectories`: the one pytree that theorem checks, the atlas and training share.

Layout of the token axis S = K (L + 1): K rounds, each of L answer tokens followed by one decision slot.

    [ y_1 (L tokens), d_1, y_2 (L tokens), d_2, ..., y_K (L tokens), d_K ]

Answer tokens are ids in the answer vocabulary 0..V-1; decision slots hold `STOP` or `RESAMPLE`. A token that was
never drawn (after the stop, or the decision that is forced at the horizon T) is in neither mask.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from dsjax.errors import require

STOP = 0
RESAMPLE = 1
DECISION_NAMES = ("STOP", "RESAMPLE")


def is_concrete(*arrays: Any) -> bool:
    """Whether the values are at hand: False inside of a trace, where only shapes and dtypes can be checked."""
    return not any(isinstance(a, Tracer) for a in arrays)


def namespace(*arrays: Any) -> Any:
    """NumPy for arrays of NumPy, whose values are at hand in a trace too, so that no operation is staged; else JAX."""
    return np if all(isinstance(a, np.ndarray) for a in arrays) else jnp


def context_codes(prompt_BxP: np.ndarray, answers_BxKxL: np.ndarray, *, past: bool) -> np.ndarray:
    """i[B, K, L + 1]: in each column equal numbers for equal contexts; slot L is that of the decision.

    A context is the prompt and the answer so far, with `past` also the answers of earlier rounds.
    """

    def numbered(code_B: np.ndarray, more_B: np.ndarray) -> np.ndarray:
        return np.unique(code_B * (more_B.max() + 1) + more_B, return_inverse=True)[1]

    B, K, L = answers_BxKxL.shape
    start = np.unique(prompt_BxP, axis=0, return_inverse=True)[1].reshape(B)
    out = np.zeros((B, K, L + 1), np.int64)
    code = start
    for k in range(K):
        code = code if past else start
        for j in range(L):
            out[:, k, j] = code
            code = numbered(code, answers_BxKxL[:, k, j])
        out[:, k, L] = code
    return out


_INTEGER = (jnp.integer, "an integer dtype")
_FLOATING = (jnp.floating, "a floating dtype")
# What `validate` asks of each field: its axes, its kind of numbers, and that in words.
_FIELDS: dict[str, tuple[str, Any, str]] = {
    "tokens": ("BS", *_INTEGER),
    "prompt": ("BP", *_INTEGER),
    "sample_mask": ("BS", jnp.bool_, "bool"),
    "decision_mask": ("BS", jnp.bool_, "bool"),
    "round": ("BS", *_INTEGER),
    "reward": ("B", *_FLOATING),
    "weight": ("B", *_FLOATING),
    "group": ("B", *_INTEGER),
    "old_logp": ("BS", *_FLOATING),
    "ref_logp": ("BS", *_FLOATING),
    "sampler_logp": ("BS", *_FLOATING),
    "values": ("BS", *_FLOATING),
}


class Trajectories(struct.PyTreeNode):
    """B trajectories `w = (q, y_1, d_1, .., y_tau, d_tau)` with their law.

    Level 1 and 2 (`exact=True`): every trajectory of a process, `weight` is its probability and the trajectories of
    one prompt form one group. Level 3 (`exact=False`): B samples, `weight` is 1/B.

    Objectives take log-probabilities separately, as `logp_BxS` in nats, so that they are pure functions of them.
    """

    tokens: jax.Array  # i32[B, S]   answer token or decision id
    prompt: jax.Array  # i32[B, P]   prompt tokens (P = 1: the index of the prompt in the process)
    sample_mask: jax.Array  # bool[B, S]  tokens drawn by pi_sample
    decision_mask: jax.Array  # bool[B, S]  tokens drawn by pi_d
    round: jax.Array  # i32[B, S]   round of the token, 0-based (t - 1 of the theory)
    reward: jax.Array  # f[B]        return R = r(q, y_tau) - c (tau - 1)
    weight: jax.Array  # f[B]        probability of the trajectory, or 1/B
    group: jax.Array  # i32[B]      index of the prompt group, 0..num_groups-1
    old_logp: jax.Array | None = None  # f[B, S] nats, under the policy that drew the tokens, as the trainer computes it
    ref_logp: jax.Array | None = None  # f[B, S] nats, under the reference policy
    sampler_logp: jax.Array | None = None  # f[B, S] nats, by the engine that drew the tokens, where it is not old_logp
    values: jax.Array | None = None  # f[B, S] estimate of E[R | all before the token]; data, for GAE
    num_groups: int = struct.field(pytree_node=False, default=1)  # of prompts
    exact: bool = struct.field(pytree_node=False, default=False)  # every trajectory with its probability, no samples

    @classmethod
    def create(cls, **fields: Any) -> Trajectories:
        """Build with every check that the values allow.

        Shapes and dtypes are always checked, values only outside of a trace.

        Raises:
          InputError: naming the field, what it received and what is allowed.
        """
        traj = cls(**fields)
        traj.validate()
        return traj

    @classmethod
    def from_rounds(
        cls,
        *,
        prompt: jax.Array,
        answers: jax.Array,
        stop_round: jax.Array,
        horizon: int,
        reward: jax.Array,
        weight: jax.Array,
        group: jax.Array,
        num_groups: int,
        exact: bool = False,
        imitated: jax.Array | None = None,
    ) -> Trajectories:
        """Lay K rounds out as one token axis and derive the masks from the stopping round.

        Args:
          prompt: i32[B, P].
          answers: i32[B, K, L], K <= horizon; rounds after `stop_round` are ignored.
          stop_round: i32[B], 0-based round tau - 1 at which the trajectory stops.
          horizon: T. A stop at round T - 1 is forced and has no decision token.
          reward: f[B] return.
          weight: f[B].
          group: i32[B].
          num_groups: number of prompt groups (static).
          exact: whether `weight` is a law over all trajectories.
          imitated: optional bool[B, K]; False takes a round's answer out of the sample mask (a wrong answer
            that a demonstration shows but does not ask to copy).
        """
        require(answers.ndim == 3, "answers.shape", answers.shape, "[B, K, L]")
        B, K, L = answers.shape
        require(horizon >= K, "rounds", K, f"at most the horizon {horizon}")
        if is_concrete(stop_round):
            stop = np.asarray(stop_round)
            require(bool(((stop >= 0) & (stop < K)).all()), "stop_round", stop.tolist(), f"0..{K - 1}")
        xp = namespace(answers, stop_round)
        round_K = xp.arange(K, dtype=np.int32)
        stop_Bx1 = stop_round[:, None].astype(np.int32)
        used_BxK = round_K[None, :] <= stop_Bx1
        drawn_BxK = used_BxK if imitated is None else used_BxK & imitated
        decided_BxK = used_BxK & (round_K[None, :] < horizon - 1)
        decision_BxK = xp.where(round_K[None, :] < stop_Bx1, RESAMPLE, STOP).astype(np.int32)

        def flat(answer_BxKxL: jax.Array, decision_BxK: jax.Array) -> jax.Array:
            return xp.concatenate([answer_BxKxL, decision_BxK[..., None]], axis=-1).reshape(B, K * (L + 1))

        no_BxK, no_BxKxL = xp.zeros((B, K), bool), xp.zeros((B, K, L), bool)
        return cls.create(
            tokens=flat(answers.astype(np.int32), decision_BxK),
            prompt=prompt,
            sample_mask=flat(xp.broadcast_to(drawn_BxK[..., None], (B, K, L)), no_BxK),
            decision_mask=flat(no_BxKxL, decided_BxK),
            round=xp.broadcast_to(np.repeat(np.arange(K, dtype=np.int32), L + 1)[None], (B, K * (L + 1))),
            reward=reward,
            weight=weight,
            group=group.astype(np.int32),
            num_groups=num_groups,
            exact=exact,
        )

    @property
    def mask(self) -> jax.Array:
        """bool[B, S]: tokens of either component."""
        return self.sample_mask | self.decision_mask

    @property
    def num_tokens(self) -> jax.Array:
        """f[B]: T_i, the number of loss tokens of each trajectory."""
        return jnp.sum(self.mask, axis=-1).astype(self.reward.dtype)

    def rows(self, index: Any) -> Trajectories:
        """The trajectories of these rows, as `x[index]` of every array; the index may be traced."""
        return jax.tree.map(lambda x: (jnp.asarray(x) if isinstance(index, jax.Array) else x)[index], self)

    def answers(self, length: int) -> jax.Array:
        """i32[B, K, L]: the answers, round by round, for answers of `length` tokens."""
        return self.blocks(self.tokens, length)[..., :length]

    def blocks(self, x_BxS: jax.Array, length: int) -> jax.Array:
        """[B, K, L + 1] view of a token-axis array: one row a round, the decision slot last."""
        B, S = x_BxS.shape
        require(S % (length + 1) == 0, "answer length", length, f"L such that L + 1 divides the token axis {S}")
        return x_BxS.reshape(B, S // (length + 1), length + 1)

    def under(self, logp_BxS: jax.Array, prompt_weight: jax.Array) -> Trajectories:
        """The same trajectories with their law under a policy: weight = mu(q) exp(sum log pi), old_logp = log pi.

        No gradient flows through either: the law is data to an objective.
        """
        logp_BxS = jax.lax.stop_gradient(logp_BxS)
        log_law_B = jnp.sum(jnp.where(self.mask, logp_BxS, 0.0), axis=-1)
        return self.replace(weight=prompt_weight * jnp.exp(log_law_B), old_logp=logp_BxS)

    def validate(self) -> None:
        """Check shapes, dtypes and (outside of a trace) values; see `create`."""
        require(self.tokens.ndim == 2, "tokens.shape", self.tokens.shape, "[B, S]")
        B, S = self.tokens.shape
        require(B >= 1, "tokens.shape", (B, S), "at least one trajectory")
        for name, (axes, kind, words) in _FIELDS.items():
            x = getattr(self, name)
            if x is None:
                continue
            fits = x.ndim == 2 and x.shape[0] == B if axes == "BP" else x.shape == (B, S)[: len(axes)]
            allowed = {"BS": f"{(B, S)}, as tokens", "B": f"{(B,)}, one a trajectory", "BP": f"({B}, P)"}[axes]
            require(fits, f"{name}.shape", x.shape, allowed)
            require(jnp.issubdtype(x.dtype, kind), f"{name}.dtype", str(x.dtype), words)
        require(self.num_groups >= 1, "num_groups", self.num_groups, "at least 1")
        if not is_concrete(*jax.tree.leaves(self)):
            return
        sample, decision = np.asarray(self.sample_mask), np.asarray(self.decision_mask)
        require(not (sample & decision).any(), "sample_mask & decision_mask", "overlap", "disjoint masks")
        require(bool(np.isfinite(self.reward).all()), "reward", "a value that is not finite", "finite returns")
        weight = np.asarray(self.weight)
        require(bool((np.isfinite(weight) & (weight >= 0)).all()), "weight", weight.min(), "finite and >= 0")
        group = np.asarray(self.group)
        require(
            bool(((group >= 0) & (group < self.num_groups)).all()),
            "group",
            (int(group.min()), int(group.max())),
            f"0..{self.num_groups - 1}",
        )
        if self.exact:
            tolerance = 4 * B * np.finfo(weight.dtype).eps
            require(abs(weight.sum() - 1) <= tolerance, "sum of weight", float(weight.sum()), "1 for an exact law")
        for name in ("old_logp", "ref_logp", "sampler_logp"):
            x = getattr(self, name)
            if x is not None:
                chosen = np.asarray(x)[sample | decision]
                ok = np.isfinite(chosen).all() and (chosen <= 0).all()
                require(bool(ok), name, "a value that is positive or not finite", "finite log-probabilities <= 0")
        if self.values is not None:
            chosen = np.asarray(self.values)[sample | decision]
            require(bool(np.isfinite(chosen).all()), "values", "a value that is not finite", "finite values")

    def describe(self, index: int, length: int) -> str:
        """One trajectory in words: `prompt 3 | 0 1 RESAMPLE | 1 1 STOP | R = 1, weight = 0.03`."""
        parts = ["prompt " + " ".join(map(str, np.asarray(self.prompt[index])))]
        tokens = np.asarray(self.blocks(self.tokens, length)[index])
        sample = np.asarray(self.blocks(self.sample_mask, length)[index])
        decision = np.asarray(self.blocks(self.decision_mask, length)[index])
        for k in range(len(tokens)):
            if not (sample[k].any() or decision[k].any()):
                continue
            words = [str(t) for t in tokens[k, :length]]
            words.append(DECISION_NAMES[tokens[k, length]] if decision[k, length] else "(forced STOP)")
            parts.append(" ".join(words))
        parts.append(f"R = {float(self.reward[index]):.4g}, weight = {float(self.weight[index]):.4g}")
        return " | ".join(parts)

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self)
        arrays = all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
        if not arrays or not is_concrete(*leaves) or self.tokens.ndim != 2:
            return f"Trajectories(no values, tokens {getattr(self.tokens, 'shape', '?')})"
        B, S = self.tokens.shape
        law = "exact law" if self.exact else "samples"
        mean = float(jnp.sum(self.weight * self.reward))
        recorded = [n for n in ("old_logp", "ref_logp", "sampler_logp", "values") if getattr(self, n) is not None]
        return (
            f"Trajectories({B} x {S} tokens, {law}, {self.num_groups} groups, total weight "
            f"{float(self.weight.sum()):.6g}, mean return {mean:.4g}, {int(self.sample_mask.sum())} sampling and "
            f"{int(self.decision_mask.sum())} decision tokens, {self.reward.dtype}"
            + (", with " + " and ".join(recorded) if recorded else "")
            + ")"
        )
