"""Ratios to the policy before the update, and the rules that clip them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dsjax.errors import InputError, require
from dsjax.objectives.aggregation import masked
from dsjax.objectives.options import names, taken
from dsjax.trajectories import Trajectories

# Ratios stop at exp(20) = 5e8, so that float32 stays finite; beyond it they are constant, with gradient 0.
LOG_RATIO_LIMIT = 20.0


def recorded(traj: Trajectories, name: str) -> jax.Array:
    """The optional field of that name (f[B, S]), as data; `InputError` where it is missing."""
    x = getattr(traj, name)
    if x is None:
        raise InputError(name, None, f"trajectories with {name} (f[B, S]): this objective needs them")
    return jax.lax.stop_gradient(x)


def _summed(x_BxS: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.sum(x_BxS, axis=-1, keepdims=True), x_BxS.shape)


RATIOS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {  # log rho_BxS and T_Bx1 -> log of the ratio
    "token": lambda log_rho, T: log_rho,  # rho_it = pi(y_it)/pi_old(y_it)
    "sequence": lambda log_rho, T: _summed(log_rho),  # prod_t rho_it, on every token
    "geometric": lambda log_rho, T: _summed(log_rho) / T,  # (prod_t rho_it)^(1/T_i), on every token
}


def ratio(logp_BxS: jax.Array, traj: Trajectories, kind: str) -> jax.Array:
    """f[B, S]: pi/pi_old of the token, the sequence, or their geometric mean over the sequence's tokens.

    A ratio of a whole sequence stands on each of its tokens. Its mean over them (`sequence_mean`) is that one ratio,
    and its gradient reaches every token alike.
    """
    require(kind in RATIOS, "ratio", kind, ["none", *RATIOS])
    log_rho_BxS = masked(logp_BxS - recorded(traj, "old_logp"), traj.mask)
    log_ratio_BxS = RATIOS[kind](log_rho_BxS, jnp.maximum(traj.num_tokens, 1.0)[:, None])
    return jnp.exp(jnp.minimum(log_ratio_BxS, LOG_RATIO_LIMIT))


# Clip rules: ratio with gradient, advantage, log-prob with gradient, trajectories -> loss of each token.


def _require_clip(clip: float, clip_high: float, *, no_lower: bool = False) -> None:
    require(0 < clip < 1 or (no_lower and clip == 1), "clip", clip, "0 < clip < 1; for cispo also 1, no lower clip")
    require(clip_high > 0, "clip_high", clip_high, "> 0")


def unclipped(rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories) -> jax.Array:
    """-rho A."""
    del logp, traj
    return -rho * A


def ppo(
    rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, clip: float, clip_high: float
) -> jax.Array:
    """-min(rho A, clip(rho) A): no gradient from a ratio that has moved too far the right way."""
    del logp, traj
    _require_clip(clip, clip_high)
    return -jnp.minimum(rho * A, jnp.clip(rho, 1 - clip, 1 + clip_high) * A)


def cispo(
    rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, clip: float, clip_high: float
) -> jax.Array:
    """-sg(clip(rho)) A log pi: every token keeps a gradient."""
    del traj
    _require_clip(clip, clip_high, no_lower=True)
    return -jax.lax.stop_gradient(jnp.clip(rho, 1 - clip, 1 + clip_high)) * A * logp


def sapo(
    rho: jax.Array,
    A: jax.Array,
    logp: jax.Array,
    traj: Trajectories,
    *,
    temperature: float = 1.0,
    temperature_negative: float = 1.05,
) -> jax.Array:
    """-A (4/tau) sigmoid(tau (rho - 1)): a soft clip; tau = `temperature`, or `temperature_negative` where A <= 0."""
    del logp, traj
    for name, tau in (("temperature", temperature), ("temperature_negative", temperature_negative)):
        require(tau > 0, name, tau, "> 0")
    tau = jnp.where(A > 0, jnp.asarray(temperature, A.dtype), jnp.asarray(temperature_negative, A.dtype))
    return -A * (4 / tau) * jax.nn.sigmoid(tau * (rho - 1))


def gmpo(
    rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, clip: float, clip_high: float
) -> jax.Array:
    """-A exp(mean_t l_t), l = min(log rho, clip_high) for A > 0, max(log rho, -clip) for A <= 0, on every token.

    The clip acts on single tokens and before the mean: a token beyond it loses its gradient alone.
    """
    del rho
    _require_clip(clip, clip_high)
    log_rho = masked(logp - recorded(traj, "old_logp"), traj.mask)
    kept = jnp.where(A > 0, jnp.minimum(log_rho, clip_high), jnp.maximum(log_rho, -clip))
    mean = RATIOS["geometric"](masked(kept, traj.mask), jnp.maximum(traj.num_tokens, 1.0)[:, None])
    return -A * jnp.exp(jnp.minimum(mean, LOG_RATIO_LIMIT))


def _kept_within(distance: jax.Array, moved: jax.Array, A: jax.Array, low: float, high: float) -> jax.Array:
    """bool: the probability has not moved the way of A's sign by a distance above its threshold."""
    return jnp.where(A > 0, (moved <= 0) | (distance <= high), (moved >= 0) | (distance <= low))


def _trust_region(
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    rho: jax.Array,
    A: jax.Array,
    logp: jax.Array,
    traj: Trajectories,
    clip: float,
    clip_high: float,
) -> jax.Array:
    """-sg(rho) A log pi where a two-way distance of pi_old and pi is within its threshold, else 0."""
    _require_clip(clip, clip_high)
    new, old = masked(jax.lax.stop_gradient(logp), traj.mask), masked(recorded(traj, "old_logp"), traj.mask)
    kept = _kept_within(distance(old, new), new - old, A, clip, clip_high)
    return jnp.where(kept, -jax.lax.stop_gradient(rho) * A * logp, 0.0)


def _binary_kl(old: jax.Array, new: jax.Array) -> jax.Array:
    """KL((p_old, 1 - p_old) || (p, 1 - p)) from log-probs; 0 log 0 = 0."""
    rest_old, rest_new = -jnp.expm1(old), -jnp.expm1(new)
    some = rest_old > 0
    tiny = jnp.finfo(new.dtype).tiny
    rest = jnp.log(jnp.where(some, rest_old, 1.0)) - jnp.log(jnp.maximum(rest_new, tiny))
    return jnp.exp(old) * (old - new) + jnp.where(some, rest_old * rest, 0.0)


def dppo_tv(
    rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, clip: float, clip_high: float
) -> jax.Array:
    """-sg(rho) A log pi; a token is dropped if A > 0 and pi - pi_old > clip_high, or A <= 0 and pi_old - pi > clip.

    |pi - pi_old| of one token is the total variation of the two-way split (token, all others): exact for a decision.
    """

    def distance(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.abs(jnp.exp(new) - jnp.exp(old))

    return _trust_region(distance, rho, A, logp, traj, clip, clip_high)


def dppo_kl(
    rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, clip: float, clip_high: float
) -> jax.Array:
    """`dppo_tv` with the distance KL((pi_old, 1 - pi_old) || (pi, 1 - pi)), for a token that moves the way of A."""
    return _trust_region(_binary_kl, rho, A, logp, traj, clip, clip_high)


def dro(rho: jax.Array, A: jax.Array, logp: jax.Array, traj: Trajectories, *, beta: float = 0.1) -> jax.Array:
    """-(A log pi - (beta/2) log^2 rho): c = A - beta log rho, a spring to pi_old instead of a clip."""
    del rho
    require(beta >= 0, "beta", beta, ">= 0")
    log_rho = masked(logp - recorded(traj, "old_logp"), traj.mask)
    return -(A * logp - 0.5 * beta * log_rho**2)


CLIP_RULES: dict[str, Callable[..., jax.Array]] = {
    "none": unclipped,
    "ppo": ppo,
    "cispo": cispo,
    "sapo": sapo,
    "gmpo": gmpo,
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    "dro": dro,
}
OF_TOKENS = ("gmpo", "dppo_tv", "dppo_kl", "dro")  # they read the tokens' own ratios or probabilities
WITHOUT_RATIO = ("gmpo", "dro")


def token_loss(
    rule: str,
    kind: str,
    A: jax.Array,
    logp: jax.Array,
    traj: Trajectories,
    *,
    ratio_cap: float | None = None,
    dual_clip: float | None = None,
    **options: float | None,
) -> jax.Array:
    """f[B, S]: the loss of each token by the clip rule of that name, with the ratio of that kind.

    Args:
      rule: of `CLIP_RULES`.
      kind: of `RATIOS`.
      A: f[B, S] or f[B, 1].
      logp: f[B, S] nats.
      traj: with `old_logp`.
      ratio_cap: the ratio is held at this number (TRL `delta`), with gradient 0 above it.
      dual_clip: C; where A < 0 the loss is at most -C A, with gradient 0 there (verl `clip_ratio_c`).
      **options: of the rule; `clip` and `clip_high` may be given to a rule without them.
    """
    require(kind == "token" or rule not in OF_TOKENS, "ratio", kind, f"token, for clip_rule {rule}")
    piece = CLIP_RULES[rule]
    if "clip" not in names(piece):
        options = {name: x for name, x in options.items() if name not in ("clip", "clip_high")}
    rho = ratio(logp, traj, kind)
    if ratio_cap is not None:
        require(ratio_cap > 1 and rule not in WITHOUT_RATIO, "ratio_cap", ratio_cap, "> 1, for a rule with a ratio")
        rho = jnp.minimum(rho, ratio_cap)
    loss = piece(rho, A, logp, traj, **taken(f"clip_rule {rule}", piece, options))
    if dual_clip is not None:
        require(dual_clip > 1, "dual_clip", dual_clip, "> 1")
        loss = jnp.where(A < 0, jnp.minimum(loss, -dual_clip * A), loss)
    return loss
