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
    rng = np.random.default_rng(seed)
    values = rng.normal(size=traj.tokens.shape)
    # pi_old/mu is exp(+-0.05) or exp(0.8): inside and outside of the bounds that the tests use.
    sampler_logp = np.minimum(np.array(traj.old_logp) - rng.choice([-0.05, 0.05, 0.8], traj.tokens.shape), 0.0)
    group = jnp.asarray([0, 0, 1, 1, 0, 1, 2, 2], jnp.int32)
    return logp, traj.replace(
        group=group,
        num_groups=4,
        values=jnp.asarray(values, traj.reward.dtype),
        reward=jnp.asarray(reward),
        sampler_logp=jnp.asarray(sampler_logp),
    )


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
    "sapo": {"advantage": "group_normalised", "ratio": "token", "clip_rule": "sapo", "aggregation": "sequence_mean"},
    "gmpo": {
        **CLIPPED,
        "advantage": "group_normalised",
        "clip_rule": "gmpo",
        "aggregation": "sequence_mean",
        "clip": 0.4,
    },
    "dppo_tv": {
        **CLIPPED,
        "advantage": "group_normalised",
        "clip_rule": "dppo_tv",
        "aggregation": "token_mean",
        "ratio_cap": 20,
    },
    "gpg": {"advantage": "gpg", "aggregation": "token_mean"},
    "dro": {"advantage": "group_normalised", "ratio": "token", "clip_rule": "dro", "aggregation": "token_mean"},
    "psr_nsr": {"advantage": "psr_nsr"},
    "trajectory_kl": {"reward_kl": 1.0},
}

PRESETS["luspo"] = {**PRESETS["gspo"], "aggregation": "sequence_sum"}
PRESETS["dppo_kl"] = {**PRESETS["dppo_tv"], "clip_rule": "dppo_kl", "clip": 0.05}


class Batch:
    """The fields of `Trajectories` as NumPy arrays."""

    def __init__(self, logp: jax.Array, traj: Trajectories):
        self.logp = np.asarray(logp)
        self.s, self.d = np.asarray(traj.sample_mask), np.asarray(traj.decision_mask)
        self.m = self.s | self.d
        self.R, self.group, self.turn = np.asarray(traj.reward), np.asarray(traj.group), np.asarray(traj.round)
        self.old, self.ref, self.V = (np.asarray(x) for x in (traj.old_logp, traj.ref_logp, traj.values))
        self.mu = np.asarray(traj.sampler_logp)
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
        elif name == "gpg":
            live = [j for j in range(b.B) if len(set(R[b.group == b.group[j]])) > 1]
            A[i] = (R[i] - everyone.mean()) * b.B / max(len(live), 1)
        elif name == "psr_nsr":
            A[i] = o.get("positive_weight", 0.1) if R[i] >= o.get("threshold", 1.0) else -1.0
        else:
            std = (R if o.get("std_of") == "batch" else everyone).std(ddof=o.get("ddof", 0))
            A[i] = (R[i] - everyone.mean()) / (max(std, o.get("std_floor", 0.0)) + o.get("epsilon", 1e-4))
    return np.repeat(A[:, None], b.S, axis=1)


def normaliser(b: Batch, how: str, o: dict[str, Any]) -> np.ndarray:
    """f[B, S]: what one unit of a token's value is worth in the loss."""
    each = {
        "sequence_sum": np.ones(b.B) / b.B,
        "sequence_mean": 1 / (b.B * b.divisor),
        "token_mean": np.ones(b.B) / b.T.sum(),
        "constant": np.ones(b.B) / (b.B * o.get("max_tokens", b.S)),
        "given_count": np.ones(b.B) / (b.B * o.get("tokens_per_sequence", np.nan)),
        "nonempty_sequence_sum": np.ones(b.B) / (b.T > 0).sum(),
        "nonempty_sequence_mean": 1 / ((b.T > 0).sum() * b.divisor),
        "prompt_mean": 1 / (len(set(b.group)) * np.maximum([b.T[b.group == g].sum() for g in b.group], 1)),
    }[how]
    return b.m * each[:, None]


def kl_coefficients(b: Batch, estimator: str) -> np.ndarray:
    x, rho = b.logp - b.ref, np.exp(b.logp - b.old)
    k3 = np.exp(-x) - 1 + x
    return {
        "k1": -np.ones_like(x),
        "k2": -x,
        "k3": np.exp(-x) - 1,
        "k3_ratio": -rho * (k3 + 1 - np.exp(-x)),
        "abs": -np.sign(x),
        **dict.fromkeys(("k1+", "k3+", "abs+"), -x),
        "k1_score": -(1 + x),
        "k2_score": -(x + x**2 / 2),
        "k3_score": -x,
    }[estimator]


def mismatch(b: Batch, o: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(weight, kept) of each token, row by row."""
    rule, weight, kept = o["mismatch"], np.zeros((b.B, b.S)), np.zeros((b.B, b.S), bool)
    token_wise, geometric = rule.startswith("token"), rule == "geometric_drop"
    low, high = o.get("mismatch_low", 0.99 if geometric else 0.5), o.get("mismatch_high", 1.01 if geometric else 5.0)
    for i in range(b.B):
        log_w = [b.old[i, t] - b.mu[i, t] for t in b.drawn(i)]
        for t, single in zip(b.drawn(i), log_w, strict=True):
            w = np.exp(single if token_wise else sum(log_w) / (b.T[i] if geometric else 1))
            if rule.endswith("truncate"):
                weight[i, t], kept[i, t] = min(w, o.get("mismatch_high", 2.0)), True
            else:
                kept[i, t] = low <= w <= high
                weight[i, t] = kept[i, t] * (1.0 if geometric else w)
    return weight, kept


def binary_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def ruled_coefficients(b: Batch, A: np.ndarray, n: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    """c_it of the clip rules that are not of GRPO's family, token by token but for `gmpo`."""
    rule, c = o["clip_rule"], np.zeros((b.B, b.S))
    low, high = o.get("clip", 0.2), o.get("clip_high") or o.get("clip", 0.2)
    for i in range(b.B):
        a, log_rho = A[i], np.where(b.m[i], b.logp[i] - b.old[i], 0.0)
        rho, p, q = np.exp(log_rho), np.exp(b.logp[i]), np.exp(b.old[i])
        if rule == "sapo":
            tau = np.where(a > 0, o.get("temperature", 1.0), o.get("temperature_negative", 1.05))
            s = 1 / (1 + np.exp(-tau * (rho - 1)))
            c[i] = n[i] * 4 * s * (1 - s) * rho * a
        elif rule == "gmpo":
            clipped = np.where(a > 0, np.minimum(log_rho, high), np.maximum(log_rho, -low))
            mean = np.exp((clipped * b.m[i]).sum() / b.divisor[i])
            c[i] = (n[i] * a).sum() * mean / b.divisor[i] * (clipped == log_rho) * b.m[i]
        elif rule == "dro":
            c[i] = n[i] * (a - o.get("beta", 0.1) * log_rho)
        else:
            distance = np.abs(p - q) if rule == "dppo_tv" else binary_kl(q, p)
            dropped = np.where(a > 0, (p > q) & (distance > high), (p < q) & (distance > low))
            c[i] = n[i] * np.minimum(rho, o["ratio_cap"]) * a * ~dropped
    return c


def reward_coefficients(b: Batch, R: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    """c_it of the surrogate with settings `o`; the ratio of a sequence passes its gradient to all of its tokens."""
    A = advantages(b, R, o)
    w, kept = mismatch(b, o) if "mismatch" in o else (np.ones((b.B, b.S)), b.m)
    if o.get("rejected") == "leave":
        b.m = b.m & kept
        b.T = b.m.sum(-1)
        b.divisor = np.maximum(b.T, 1)
    n = normaliser(b, o.get("aggregation", "sequence_sum"), o)
    A = A * w
    kind, rule = o.get("ratio", "none"), o.get("clip_rule", "none")
    low = 1 - o.get("clip", 0.2)
    high = 1 + (o.get("clip_high") or o.get("clip", 0.2))
    log_rho = np.where(b.m, b.logp - b.old, 0.0)
    if kind == "none":
        c = n * A
    elif rule in ("sapo", "gmpo", "dppo_tv", "dppo_kl", "dro"):
        c = ruled_coefficients(b, A, n, o)
    elif kind == "token":
        rho = np.exp(log_rho)
        if rule == "cispo":
            c = n * np.clip(rho, low, high) * A
        else:
            live = np.where(A > 0, rho <= high, rho >= low) if rule == "ppo" else 1.0
            live = live * (rho <= o.get("ratio_cap", np.inf)) * ((A >= 0) | (rho <= o.get("dual_clip", np.inf)))
            c = n * rho * A * live
    else:
        rho = np.exp(log_rho.sum(-1, keepdims=True) / (b.divisor[:, None] if kind == "geometric" else 1.0))
        live = np.where(A > 0, rho <= high, rho >= low) if rule == "ppo" else 1.0
        c = b.m * (n * rho * A * live).sum(-1, keepdims=True) / (b.divisor[:, None] if kind == "geometric" else 1.0)
    c = c + o.get("token_kl", 0.0) * n * kl_coefficients(b, o.get("kl_estimator", "k2"))
    return c + o.get("entropy", 0.0) * n * (-b.logp - 1)


def pair_coefficients(b: Batch, kind: str, beta: float, o: dict[str, Any]) -> np.ndarray:
    """Pair by pair; a pair of a group of G members weighs 1/G."""
    x = np.where(b.m, b.logp - (0.0 if kind == "simpo" else b.ref), 0.0).sum(-1)
    T = b.divisor if kind in ("simpo", "ipo") or o.get("token_mean") else np.ones(b.B)
    c, total = np.zeros((b.B, b.S)), 0.0
    for i in range(b.B):
        for j in range(b.B):
            if b.group[i] != b.group[j] or not b.R[i] > b.R[j]:
                continue
            weight = 1 / (b.group == b.group[i]).sum()
            total += weight
            gap = x[i] / T[i] - x[j] / T[j]
            if kind == "ipo":
                push = 2 * (1 / (2 * beta) - gap)
            elif o.get("loss") == "hinge":
                push = beta * (beta * gap < 1)
            else:
                push = beta / (1 + np.exp(beta * gap - (o.get("margin", 1.0) if kind == "simpo" else 0.0)))
            c[i] += weight * push / T[i] * b.m[i]
            c[j] -= weight * push / T[j] * b.m[j]
    return c / total


def kto_coefficients(b: Batch, o: dict[str, Any]) -> np.ndarray:
    x, beta = np.where(b.m, b.logp - b.ref, 0.0).sum(-1), o.get("beta", 0.1)
    z = o.get("reference_point", max(x.mean(), 0.0))
    c = np.zeros((b.B, b.S))
    for i in range(b.B):
        good = b.R[i] >= o.get("threshold", 1.0)
        v = 1 / (1 + np.exp(-beta * (x[i] - z) * (1 if good else -1)))
        w = o.get("desirable_weight", 1.0) if good else -o.get("undesirable_weight", 1.0)
        c[i] = w * beta * v * (1 - v) / b.B * b.m[i]
    return c


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
    if kind in ("dpo", "ipo", "simpo"):
        return pair_coefficients(b, kind, o.get("beta", 2.0 if kind == "simpo" else 0.1), o)
    if kind == "kto":
        return kto_coefficients(b, o)
    n = normaliser(b, o.get("aggregation", "sequence_sum"), o)
    if kind == "entropy_bonus":
        return n * (-b.logp - 1)
    if kind == "distillation":
        return n * sums_ahead(b, np.where(b.m, b.ref - b.logp, 0.0), o.get("discount", 0.0))
    assert kind == "own_token_kl"
    return n * kl_coefficients(b, o.get("estimator", "k2"))
