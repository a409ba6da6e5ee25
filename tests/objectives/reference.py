"""Coefficients of every objective in plain NumPy, token by token, and the ragged batch they are compared on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.trajectories import Trajectories
from tests.cases import ragged_batch

# Compiling costs far more than running here, and without optimisation a third as much.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
PADDING = 3  # the last group of `batch`, left empty


def batch(seed: int = 0, *, imitated: bool = False) -> tuple[jax.Array, Trajectories]:
    """`ragged_batch` in groups of 3, 3 and 2, one group empty, two returns of a group equal, and with state values."""
    return _batch(seed, imitated, jnp.zeros(()).dtype)


@functools.lru_cache
def _batch(seed: int, imitated: bool, dtype: Any) -> tuple[jax.Array, Trajectories]:
    del dtype  # it follows the scope; here it keeps float32 and float64 apart
    logp, traj = ragged_batch(seed, imitated=imitated)
    reward = np.array(traj.reward)
    reward[5] = reward[2]
    values = np.random.default_rng(seed).normal(size=traj.tokens.shape)
    group = jnp.asarray([0, 0, 1, 1, 0, 1, 2, 2], jnp.int32)
    return logp, traj.replace(group=group, num_groups=4, values=jnp.asarray(values), reward=jnp.asarray(reward))


CLIPPED = {"ratio": "token", "clip_rule": "ppo", "clip": 0.2}
PRESETS: dict[str, dict[str, Any]] = {
    "surrogate": {},
    "reinforce": {},
    "rloo": {"advantage": "leave_one_out"},
    "rloo_clipped": {**CLIPPED, "advantage": "leave_one_out", "ratio": "sequence", "aggregation": "sequence_mean"},
    "grpo": {**CLIPPED, "advantage": "group_normalised", "aggregation": "sequence_mean", "kl_estimator": "k3"},
    "gspo": {
        **CLIPPED,
        "advantage": "group_normalised",
        "ratio": "geometric",
        "aggregation": "sequence_mean",
        "clip": 3e-4,
        "clip_high": 4e-4,
    },
    "dapo": {**CLIPPED, "advantage": "group_normalised", "aggregation": "token_mean", "clip_high": 0.28},
    "dr_grpo": {**CLIPPED, "advantage": "group_mean", "aggregation": "constant"},
    "cispo": {
        "advantage": "group_normalised",
        "ratio": "token",
        "clip_rule": "cispo",
        "clip": 1.0,
        "clip_high": 4.0,
        "aggregation": "token_mean",
    },
    "ppo": {**CLIPPED, "advantage": "gae", "aggregation": "token_mean"},
    "reinforce_plus_plus": {**CLIPPED, "advantage": "returns_to_go", "whiten": True, "aggregation": "token_mean"},
    "biased_per_turn": {"advantage": "biased_per_turn"},
    "trajectory_kl": {"reward_kl": 1.0},
}


class Batch:
    """The fields of `Trajectories` as NumPy arrays."""

    def __init__(self, logp: jax.Array, traj: Trajectories):
        self.logp = np.asarray(logp)
        self.s, self.d = np.asarray(traj.sample_mask), np.asarray(traj.decision_mask)
        self.m = self.s | self.d
        self.R, self.group, self.turn = np.asarray(traj.reward), np.asarray(traj.group), np.asarray(traj.round)
        self.old, self.ref, self.V = (np.asarray(x) for x in (traj.old_logp, traj.ref_logp, traj.values))
        self.T = self.m.sum(-1)
        self.divisor = np.maximum(self.T, 1)  # T_i, and 1 for an empty sequence
        self.B, self.S = self.m.shape

    def drawn(self, i: int) -> np.ndarray:
        return np.flatnonzero(self.m[i])


def token_rewards(b: Batch, R: np.ndarray, beta: float) -> np.ndarray:
    out = np.where(b.m, -beta * (b.old - b.ref), 0.0)
    for i in range(b.B):
        if b.T[i]:
            out[i, b.drawn(i)[-1]] += R[i]
    return out


def sums_ahead(b: Batch, x: np.ndarray, decay: float) -> np.ndarray:
    """sum_k decay^k x_{t+k} over drawn tokens, as the double sum that it is."""
    out = np.zeros_like(x)
    for i in range(b.B):
        steps = b.drawn(i)
        for n, t in enumerate(steps):
            out[i, t] = sum(decay**k * x[i, u] for k, u in enumerate(steps[n:]))
    return out


def token_advantages(b: Batch, name: str, r: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    gamma, lam = o.get("discount", 1.0), o.get("gae_lambda", 1.0)
    if name == "returns_to_go":
        A = sums_ahead(b, r, gamma)
    elif name == "gae":
        delta = np.zeros_like(r)
        for i in range(b.B):
            steps = list(b.drawn(i))
            for t, *after in (steps[n : n + 2] for n in range(len(steps))):
                delta[i, t] = r[i, t] - b.V[i, t] + (gamma * b.V[i, after[0]] if after else 0.0)
        A = sums_ahead(b, delta, gamma * lam)
    else:
        centred = r.copy()
        for g in set(b.group):
            for k in range(b.turn.max() + 1):
                here = b.m & (b.turn == k) & (b.group == g)[:, None]
                members = np.flatnonzero(here.any(-1))
                for i in members:
                    centred[i, np.flatnonzero(here[i])[-1]] -= r[here].sum() / len(members)
        A = sums_ahead(b, centred, 1.0)
    if o.get("whiten"):
        drawn = A[b.m]
        A = np.where(b.m, (A - drawn.mean()) / np.sqrt(drawn.var() + o.get("epsilon", 1e-8)), 0.0)
    return A


def advantages(b: Batch, R: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    """f[B, S]."""
    name = o.get("advantage", o.get("baseline", "none"))
    r = token_rewards(b, R, o.get("reward_kl", 0.0))
    if name in ("returns_to_go", "gae", "biased_per_turn"):
        return token_advantages(b, name, r, o)
    R, A = R - o.get("reward_kl", 0.0) * np.where(b.m, b.old - b.ref, 0.0).sum(-1), np.zeros(b.B)
    for i in range(b.B):
        members = np.flatnonzero(b.group == b.group[i])
        everyone, others = R[members], R[[j for j in members if j != i]]
        if name == "none":
            A[i] = R[i]
        elif name == "batch_mean":
            A[i] = R[i] - R.mean()
        elif name == "leave_one_out":
            A[i] = R[i] - others.mean()
        elif name == "group_mean":
            A[i] = R[i] - everyone.mean()
        else:
            A[i] = (R[i] - everyone.mean()) / (everyone.std() + o.get("epsilon", 1e-4))
    return np.repeat(A[:, None], b.S, axis=1)


def normaliser(b: Batch, how: str, o: dict[str, Any]) -> np.ndarray:
    """f[B, S]: what one unit of a token's value is worth in the loss."""
    each = {
        "sequence_sum": np.ones(b.B) / b.B,
        "sequence_mean": 1 / (b.B * b.divisor),
        "token_mean": np.ones(b.B) / b.T.sum(),
        "constant": np.ones(b.B) / (b.B * o.get("max_tokens", b.S)),
    }[how]
    return b.m * each[:, None]


def kl_coefficients(b: Batch, estimator: str) -> np.ndarray:
    x, rho = b.logp - b.ref, np.exp(b.logp - b.old)
    k3 = np.exp(-x) - 1 + x
    return {"k1": -np.ones_like(x), "k2": -x, "k3": np.exp(-x) - 1, "k3_ratio": -rho * (k3 + 1 - np.exp(-x))}[estimator]


def reward_coefficients(b: Batch, R: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    """c_it of the surrogate with settings `o`; the ratio of a sequence passes its gradient to all of its tokens."""
    A, n = advantages(b, R, o), normaliser(b, o.get("aggregation", "sequence_sum"), o)
    kind, rule = o.get("ratio", "none"), o.get("clip_rule", "none")
    low = 1 - o.get("clip", 0.2)
    high = 1 + (o.get("clip_high") or o.get("clip", 0.2))
    log_rho = np.where(b.m, b.logp - b.old, 0.0)
    if kind == "none":
        c = n * A
    elif kind == "token":
        rho = np.exp(log_rho)
        if rule == "cispo":
            c = n * np.clip(rho, low, high) * A
        else:
            live = np.where(A > 0, rho <= high, rho >= low) if rule == "ppo" else 1.0
            c = n * rho * A * live
    else:
        rho = np.exp(log_rho.sum(-1, keepdims=True) / (b.divisor[:, None] if kind == "geometric" else 1.0))
        live = np.where(A > 0, rho <= high, rho >= low) if rule == "ppo" else 1.0
        c = b.m * (n * rho * A * live).sum(-1, keepdims=True) / (b.divisor[:, None] if kind == "geometric" else 1.0)
    c = c + o.get("token_kl", 0.0) * n * kl_coefficients(b, o.get("kl_estimator", "k2"))
    return c + o.get("entropy", 0.0) * n * (-b.logp - 1)


def pair_coefficients(b: Batch, kind: str, beta: float) -> np.ndarray:
    """Pair by pair; a pair of a group of G members weighs 1/G."""
    x = np.where(b.m, b.logp - b.ref, 0.0).sum(-1)
    c, total = np.zeros((b.B, b.S)), 0.0
    for i in range(b.B):
        for j in range(b.B):
            if b.group[i] != b.group[j] or not b.R[i] > b.R[j]:
                continue
            weight = 1 / (b.group == b.group[i]).sum()
            total += weight
            if kind == "dpo":
                push = (beta / (1 + np.exp(beta * (x[i] - x[j]))),) * 2
            else:
                gap = x[i] / b.divisor[i] - x[j] / b.divisor[j]
                push = tuple(2 * (1 / (2 * beta) - gap) / b.divisor[k] for k in (i, j))
            c[i] += weight * push[0] * b.m[i]
            c[j] -= weight * push[1] * b.m[j]
    return c / total


def coefficients(kind: str, o: dict[str, Any], logp: jax.Array, traj: Trajectories) -> np.ndarray:
    """c_it of the registered objective `kind` with options `o`."""
    b = Batch(logp, traj)
    o = {**PRESETS.get(kind, {}), **o}
    if kind in PRESETS:
        return reward_coefficients(b, np.zeros(b.B) if kind == "trajectory_kl" else b.R, o)
    if kind in ("sft", "sft_sequence_sum", "rft"):
        kept = o.get("threshold", 1.0) <= b.R if kind == "rft" else np.ones(b.B, bool)
        w = (b.s + o.get("decision_weight", 1.0) * b.d) * kept[:, None]
        by_sequence = kind == "sft_sequence_sum" or o.get("aggregation") == "sequence_sum"
        return w / (kept.sum() if by_sequence else w.sum())
    if kind == "dft":
        return b.m * np.exp(b.logp) / b.T.sum()
    if kind in ("dpo", "ipo"):
        return pair_coefficients(b, kind, o.get("beta", 0.1))
    n = normaliser(b, o.get("aggregation", "sequence_sum"), o)
    if kind == "entropy_bonus":
        return n * (-b.logp - 1)
    assert kind == "own_token_kl"
    return n * kl_coefficients(b, o.get("estimator", "k2"))
