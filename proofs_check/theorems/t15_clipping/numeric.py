"""T15: how far a step can move a ratio depends on the probability of what was drawn, not on the number of choices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dsjax.attribution import ComponentGradients, coefficients, component_gradients
from dsjax.objectives import grpo, gspo, reinforce
from dsjax.objectives.ratios import ratio
from dsjax.policies import Params, Policy, log_probs
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.extremes import Spared
from proofs_check.instances import Instance, Shape
from proofs_check.numerics import gap, shortfall
from proofs_check.requirements import BINARY, FREE, MIXED, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

CLIP = 0.2  # eps: ratios are cut to [1 - eps, 1 + eps]
ROWS = 48  # trajectories that get a step of their own
# Relative distance from a threshold at which the clip is read on both sides: the ratio there is known to ~1e-14, and
# it moves by more than 1e-6 x 1e-3 unless the drawn probability is within 1e-3 of the largest that can be clipped.
BRACKET = 1e-6
ETA = 0.3  # of the sign step
STEP = 0.7  # g of the gradient step
LOG_BOUNDS = (float(np.log1p(-CLIP)), float(np.log1p(CLIP)))  # where a ratio leaves the clip range
WRONG = " wrong"


class Moved(NamedTuple):
    """Rows after a step, f[N, S]."""

    log_rho: jax.Array  # of each token
    token: jax.Array  # the coefficient that GRPO still gives it
    geometric: jax.Array  # the coefficient that GSPO does, with the same clip
    mean: jax.Array  # log of the geometric mean


def reach(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lowest, highest) log-ratio of a token drawn with probability 1 - x when logits change within a range w."""
    return -jnp.log1p(x * jnp.expm1(w)), -jnp.log1p(x * jnp.expm1(-w))


def decision_log_ratio(x: jax.Array, step: jax.Array) -> jax.Array:
    """log rho of a binary choice after the logits moved by step (e_v - pi), step = g A."""
    return -jnp.log1p(x * jnp.expm1(-2.0 * step * x))


def threshold(x: jax.Array, sign: jax.Array, stretch: float | jax.Array = 2.0, *, log_bounds=LOG_BOUNDS) -> jax.Array:
    """Least gradient step at which the ratio leaves the clip range; infinite if none does.

    `stretch` k: the drawn logit gains k x g on each of the others; 2 for a binary choice, V/(V-1) for V choices of
    which the others are equally likely.
    """
    low, high = log_bounds
    inside = 1.0 + jnp.expm1(-jnp.where(sign > 0, high, low)) / x
    exponent = jnp.where(inside > 0, -jnp.log(jnp.where(inside > 0, inside, 1.0)), jnp.inf)
    return jnp.abs(exponent) / (stretch * x)


def pair_of(traj: Trajectories, first: jax.Array | int, second: jax.Array | int) -> Trajectories:
    """A sampled group of two trajectories, as in training."""
    index = jnp.stack([jnp.asarray(first), jnp.asarray(second)])
    batch = traj.rows(index)
    half = jnp.full(2, 0.5, traj.weight.dtype)
    return batch.replace(weight=half, group=jnp.zeros_like(batch.group), num_groups=1, exact=False)


def ascent(
    policy: Policy, params: Params, traj: Trajectories, row: jax.Array | int, A: jax.Array
) -> ComponentGradients:
    """Component gradients A sum grad log pi of one trajectory."""
    single = traj.rows(jnp.asarray(row)[None])
    single = single.replace(weight=jnp.ones_like(single.weight), reward=A[None], num_groups=traj.num_groups)
    return component_gradients(policy, params, single.replace(exact=False), reinforce)


def coefficients_after(policy: Policy, params: Params, batch: Trajectories) -> Moved:
    """Ratios at new parameters and what the clipped objectives make of them; the first row of a sampled group."""
    logp_2xS = log_probs(policy, params, batch)
    assert batch.old_logp is not None
    return Moved(
        (logp_2xS - batch.old_logp)[0],
        coefficients(partial(grpo, clip=CLIP), logp_2xS, batch)[0],
        coefficients(partial(gspo, clip=CLIP, clip_high=CLIP), logp_2xS, batch)[0],
        jnp.log(ratio(logp_2xS, batch, "geometric")[0]),
    )


def moves(shape: Shape) -> bool:
    """Whether the shape's rows are moved by steps of their own: one softmax per context, each visited once."""
    return shape.saturated and shape.history == "full"


class Setting(instances.Setting):
    """Rows: the trajectories that get a step of their own, with their advantage, and where each step takes them."""

    def __init__(self, instance: Instance):
        super().__init__(instance)
        traj, B = self.traj, self.traj.weight.shape[0]
        self.rows = np.unique(np.linspace(0, B - 1, min(B, ROWS)).astype(int))  # i[N]
        self.right = traj.reward[self.rows] > 0.5
        self.sign = jnp.where(self.right, 1.0, -1.0)  # f[N]: A = +1 for a right answer, -1 for a wrong one
        self.x = jnp.where(traj.mask, -jnp.expm1(self.logp), 0.0)[self.rows]  # f[N, S]: 1 - pi of the drawn token
        self.mask, self.mask_s, self.mask_d = (
            mask[self.rows] for mask in (traj.mask, traj.sample_mask, traj.decision_mask)
        )
        # f[N]: tokens of the sequence, the forced stop of the last round left out.
        tau = jnp.sum(self.mask_s, -1) / self.policy.length
        self.tokens = self.policy.length * tau + jnp.minimum(tau, self.process.rounds - 1)
        if moves(self.shape):
            self.moved = self._moved()  # by the name of the step
            # A decision and a token of the row, [N, S_d, S_s]: how much further the gradient step moves the decision;
            # whether x_s <= x_d; whether x_s is far above x_d.
            self.far = jnp.abs(self.moved["gradient"].log_rho)  # f[N, S]
            self.ahead = self.far[:, :, None] - self.far[:, None, :]
            both, x_d, x_s = self.mask_d[:, :, None] & self.mask_s[:, None, :], self.x[:, :, None], self.x[:, None, :]
            self.below = both & (x_s <= x_d)
            self.above = both & (x_s >= jnp.where(self.sign > 0, jnp.sqrt(2.0), 2.0)[:, None, None] * x_d)

    @property
    def slots(self) -> list[int]:
        """Token positions of the decisions; the last slot is the forced stop."""
        L = self.policy.length
        return list(range(L, self.x.shape[-1] - 1, L + 1))

    def brackets(self, log_bounds: tuple[float, float] = LOG_BOUNDS) -> list[tuple[jax.Array, ...]]:
        """(step before, step after, whether any step clips) f[N] of the decision in each slot."""
        found = []
        for slot in self.slots:
            x = jnp.where(self.mask_d[:, slot], self.x[:, slot], 0.5)
            g = threshold(x, self.sign, log_bounds=log_bounds)
            reached = jnp.isfinite(g)
            # A decision that no step can clip is tried at a step that moves its logits apart by 40 nats.
            before = jnp.where(reached, g * (1 - BRACKET), 20.0 / x)
            found.append((before, jnp.where(reached, g * (1 + BRACKET), before), reached))
        return found

    def _moved(self) -> dict[str, Moved]:
        policy, traj, rows = self.policy, self.traj, jnp.asarray(self.rows)
        same_group = traj.group[self.rows][:, None] == traj.group[None]
        partner = jnp.argmax(same_group & ((traj.reward > 0.5)[None] != self.right[:, None]), axis=-1)
        flat, unravel = ravel_pytree(self.params)

        def direction(row: jax.Array, A: jax.Array) -> tuple[jax.Array, jax.Array]:
            gradients = ascent(policy, self.params, traj, row, A)
            return ravel_pytree(gradients.total)[0], ravel_pytree(gradients.decision)[0]

        total, decision = jax.vmap(direction)(rows, self.sign)
        steps = {"sign": ETA * jnp.sign(total), "gradient": STEP * total, "long": 10 * STEP * total}
        steps["decision"] = STEP * decision
        for name, bounds in (("", LOG_BOUNDS), (WRONG, (-CLIP, CLIP))):
            for slot, (before, after, _) in enumerate(self.brackets(bounds)):
                steps[f"before{slot}{name}"] = before[:, None] * total
                steps[f"after{slot}{name}"] = after[:, None] * total

        def one(step: jax.Array, row: jax.Array, other: jax.Array) -> Moved:
            return coefficients_after(policy, unravel(flat + step), pair_of(traj, row, other))

        every = jax.vmap(jax.vmap(one), in_axes=(0, None, None))(jnp.stack(list(steps.values())), rows, partner)
        return {name: jax.tree.map(lambda a, i=i: a[i], every) for i, name in enumerate(steps)}

    @cached_property
    def any_step(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x, w, log rho) f[B, S] of all tokens, from the parameters to the reference policy, any distance away.

        w: largest less smallest change of the logits of the softmax that the token is drawn from.
        """
        policy, traj, reference = self.policy, self.traj, self.instance.reference
        answers = traj.answers(policy.length)
        before, after = (policy.log_dists(p, traj.prompt, answers) for p in (self.params, reference))
        moved = [b - a for a, b in zip(before, after, strict=True)]
        w_s, w_d = (jnp.max(m, -1) - jnp.min(m, -1) for m in moved)
        w = jnp.concatenate([w_s, w_d[..., None]], axis=-1).reshape(traj.tokens.shape)
        x = jnp.where(traj.mask, -jnp.expm1(self.logp), 0.0)
        return x, w, log_probs(policy, reference, traj) - self.logp

    def sign_gap(self, x: jax.Array) -> jax.Array:
        """Distance of the sign step's log-ratios from their bound at these 1 - pi."""
        low, high = reach(x, jnp.asarray(2.0 * ETA))
        bound = jnp.where(self.sign[:, None] > 0, high, low)
        return gap(jnp.where(self.mask, self.moved["sign"].log_rho, 0.0), jnp.where(self.mask, bound, 0.0))

    def decision_gap(self, mask: jax.Array) -> jax.Array:
        """Distance of the gradient step's log-ratios from those of decisions."""
        decided = decision_log_ratio(self.x, STEP * self.sign[:, None])
        return gap(jnp.where(mask, self.moved["gradient"].log_rho, 0.0), jnp.where(mask, decided, 0.0))

    def clip_order(self, broken: Callable[..., jax.Array], name: str = "") -> jax.Array:
        """1 where GRPO breaks a claim at a decision's threshold, else 0; over the decision slots of all rows.

        Args:
          broken: of (slot, early bool[N, S], late bool[N, S], reached bool[N]): whether a token is dropped just before
            and just after the decision's threshold, and whether there is one.
          name: of the steps.
        """
        found = []
        for i, (slot, (_, _, reached)) in enumerate(zip(self.slots, self.brackets(), strict=True)):
            early, late = (self.moved[f"{when}{i}{name}"].token == 0 for when in ("before", "after"))
            found.append(broken(slot, early, late, reached))
        return jnp.max(jnp.stack(found).astype(float))

    def binds(self, name: str = "") -> jax.Array:
        """1 where the decision is dropped before its threshold, or is not after it."""

        def broken(slot: int, early: jax.Array, late: jax.Array, reached: jax.Array) -> jax.Array:
            return self.mask_d[:, slot] & (early[:, slot] | (reached & ~late[:, slot]))

        return self.clip_order(broken, name)

    def dilution_gap(self, tokens: jax.Array | float) -> jax.Array:
        """Distance of the geometric mean after a step on pi_d alone from (sum log rho_d) / tokens."""
        step = STEP * self.sign[:, None]
        decided = jnp.where(self.mask_d, decision_log_ratio(self.x, step), 0.0).sum(-1)
        mean = jnp.where(self.mask, self.moved["decision"].mean, 0.0)
        return gap(mean, jnp.where(self.mask, 1.0, 0.0) * (decided / tokens)[:, None])


def _least(margin: jax.Array, where: jax.Array) -> jax.Array:
    """The least margin over the entries that a claim is about; 1 if there is none."""
    return jnp.min(jnp.where(where, margin, 1.0))


THEOREM = Theorem(
    STATEMENTS["T15"],
    shapes=(
        Shape(rounds=2, length=1, vocabulary=4, prompts=2),
        Shape(rounds=3, length=1, vocabulary=3),
        Shape(rounds=2, length=2, vocabulary=2),
        Shape(rounds=4, length=1, vocabulary=2, history="none", graded=True, cost=True, shared=4),
        Shape(rounds=2, length=3, vocabulary=2, network=True),
        Shape(rounds=2, length=1, vocabulary=5, history="none"),
        Shape(rounds=2, length=4, vocabulary=2, graded=True, shared=4),
        Shape(rounds=2, length=5, vocabulary=2, history="none", cost=True, shared=4),
        Shape(rounds=2, length=6, vocabulary=2, history="none", shared=4),
    ),
    spared=(
        Spared(
            "sharp",
            "a likely decision has 1 - pi near EPS: log-ratios near their bounds, and pi > 1/(1 + eps), are rounding",
            (
                "any step: -log(1 + x (e^w - 1)) <= log rho <= -log(1 - x (1 - e^-w))",
                "GRPO drops a decision exactly from g* on, and never if pi > 1/(1 + eps) and A > 0",
            ),
        ),
    ),
    requires=(BINARY, FREE, MIXED, RESAMPLES),
    prepare=Setting,
)
everywhere, moved = THEOREM.on(), THEOREM.on(moves)


@everywhere.inequality("any step: -log(1 + x (e^w - 1)) <= log rho <= -log(1 - x (1 - e^-w))")
def _reach(s: Setting) -> jax.Array:
    x, w, log_rho = s.any_step
    low, high = reach(x, w)
    return _least(jnp.minimum(log_rho - low, high - log_rho), s.traj.mask)


@everywhere.inequality("so -x (e^w - 1) <= log rho <= x w")
def _simple(s: Setting) -> jax.Array:
    x, w, log_rho = s.any_step
    return _least(jnp.minimum(log_rho + x * jnp.expm1(w), x * w - log_rho), s.traj.mask)


_sign = moved.equation(
    "sign step of size eta: log rho is that bound, with w = 2 eta, for tokens and decisions alike",
    lambda s: s.sign_gap(s.x),
)
_decision = moved.equation(
    "gradient step g A: a decision has 1/rho = 1 - x (1 - exp(-2 g A x))", lambda s: s.decision_gap(s.mask_d)
)


@moved.inequality("gradient step: a token moves between a decision of its probability at g/2 and one at g")
def _token(s: Setting) -> jax.Array:
    less, more = (jnp.abs(decision_log_ratio(s.x, g * s.sign[:, None])) for g in (STEP / 2, STEP))
    return _least(jnp.minimum(s.far - less, more - s.far), s.mask_s)


_order = moved.inequality(
    "gradient step: the decision moves at least as far as any token with x_s <= x_d",
    lambda s: _least(s.ahead, s.below),
)
moved.inequality(
    "gradient step: tokens with x_s >= 2 x_d (A > 0: sqrt(2) x_d) move at least as far",
    lambda s: _least(-s.ahead, s.above),
)
# Yes or no: 0 or 1.
_binds = moved.equation(
    "GRPO drops a decision exactly from g* on, and never if pi > 1/(1 + eps) and A > 0", lambda s: s.binds(), 0.0
)
moved.equation(
    "GRPO: no token with x_s <= x_d is dropped before the decision",
    lambda s: s.clip_order(lambda slot, early, late, reached: jnp.any(s.below[:, slot] & early & reached[:, None], -1)),
    0.0,
)
moved.equation(
    "GRPO: tokens with x_s >= 2 x_d (A > 0: sqrt(2) x_d) are dropped no later",
    lambda s: s.clip_order(lambda slot, early, late, reached: jnp.any(s.above[:, slot] & ~late & reached[:, None], -1)),
    0.0,
)
_diluted = moved.equation(
    "geometric mean over the sequence: a step on pi_d alone moves it by (sum log rho_d)/N, N tokens",
    lambda s: s.dilution_gap(s.tokens),
)


@moved.equation("GSPO: drops all tokens of a sequence or none, from sum log rho = N log(1 +- eps)", tolerance=0.0)
def _gate(s: Setting) -> jax.Array:
    errors, edge = [], jnp.where(s.sign > 0, LOG_BOUNDS[1], LOG_BOUNDS[0])
    for name in ("decision", "long"):
        total = jnp.sum(s.moved[name].log_rho, -1)
        dropped = jnp.where(s.sign > 0, total > s.tokens * edge, total < s.tokens * edge)
        errors.append(jnp.max(jnp.where(s.mask, (s.moved[name].geometric == 0) != dropped[:, None], False)))
    return jnp.max(jnp.stack(errors).astype(float))


moved.control(
    "x = 1 - 1/V for every token",
    _sign,
    lambda s: s.sign_gap(jnp.where(s.mask_s, 1.0 - 1.0 / s.shape.vocabulary, s.x)),
)


@moved.control("|log rho| <= x w in both directions", _simple)
def _both_ways(s: Setting) -> jax.Array:
    far = jnp.abs(jnp.where(s.mask, s.moved["sign"].log_rho, 0.0))
    return shortfall(jnp.min(2.0 * ETA * s.x - far))


THEOREM.on(lambda shape: moves(shape) and shape.vocabulary > 2).control(
    "a token moves as far as a decision of its probability", _decision, lambda s: s.decision_gap(s.mask_s)
)


@moved.control("the decision moves further whatever its probability", _order)
def _whatever(s: Setting) -> jax.Array:
    """Of all rows some decision was likelier than some token: STOP and RESAMPLE are taken and all symbols drawn."""
    least = jnp.min(jnp.where(s.mask_d, s.far, jnp.inf))
    return shortfall(least - jnp.max(jnp.where(s.mask_s, s.far, 0.0)))


moved.control("clip at |log rho| = eps", _binds, lambda s: s.binds(WRONG))
moved.control("the decision diluted by 1/L", _diluted, lambda s: s.dilution_gap(float(s.policy.length)))
