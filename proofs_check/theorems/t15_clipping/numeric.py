"""T15: how far a step can move a ratio depends on the probability of what was drawn, not on the number of choices."""

from __future__ import annotations

from functools import partial
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
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import SUM, gap, shortfall
from proofs_check.requirements import BINARY, FREE, MIXED, RESAMPLES
from proofs_check.theorem import Claim, Control, Measured, Theorem

CLIP = 0.2  # eps: ratios are cut to [1 - eps, 1 + eps]
ROWS = 48  # trajectories that get a step of their own
# Relative distance from a threshold at which the clip is read on both sides: the ratio there is known to ~1e-14, and
# it moves by more than 1e-6 x 1e-3 unless the drawn probability is within 1e-3 of the largest that can be clipped.
BRACKET = 1e-6
ETA = 0.3  # of the sign step
STEP = 0.7  # g of the gradient step
LOG_BOUNDS = (float(np.log1p(-CLIP)), float(np.log1p(CLIP)))  # where a ratio leaves the clip range
WRONG = " wrong"

CLAIMS = (
    Claim("any step: -log(1 + x (e^w - 1)) <= log rho <= -log(1 - x (1 - e^-w))", SUM),
    Claim("so -x (e^w - 1) <= log rho <= x w", SUM),
    Claim("sign step of size eta: log rho is that bound, with w = 2 eta, for tokens and decisions alike", SUM),
    Claim("gradient step g A: a decision has 1/rho = 1 - x (1 - exp(-2 g A x))", SUM),
    Claim("gradient step: a token moves between a decision of its probability at g/2 and one at g", SUM),
    Claim("gradient step: the decision moves at least as far as any token with x_s <= x_d", SUM),
    Claim("gradient step: tokens with x_s >= 2 x_d (A > 0: sqrt(2) x_d) move at least as far", SUM),
    # Yes or no: 0 or 1.
    Claim("GRPO drops a decision exactly from g* on, and never if pi > 1/(1 + eps) and A > 0", 0.0),
    Claim("GRPO: no token with x_s <= x_d is dropped before the decision", 0.0),
    Claim("GRPO: tokens with x_s >= 2 x_d (A > 0: sqrt(2) x_d) are dropped no later", 0.0),
    Claim("geometric mean over the sequence: a step on pi_d alone moves it by (sum log rho_d)/N, N tokens", SUM),
    Claim(
        "GSPO: drops all tokens of a sequence or none, from sum log rho = N log(1 +- eps)",
        0.0,
    ),
)
(REACH, SIMPLE, SIGN, DECISION, TOKEN, ORDER, FAR, BINDS, FIRST, LAST, DILUTED, GATE) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("x = 1 - 1/V for every token", SIGN),
    Control("|log rho| <= x w in both directions", SIMPLE),
    Control("a token moves as far as a decision of its probability", DECISION),
    Control("the decision moves further whatever its probability", ORDER),
    Control("clip at |log rho| = eps", BINDS),
    Control("the decision diluted by 1/L", DILUTED),
)


class Moved(NamedTuple):
    """Rows after a step, f[N, S]."""

    log_rho: jax.Array  # of each token
    token: jax.Array  # the coefficient that GRPO still gives it
    geometric: jax.Array  # the coefficient that GSPO does, with the same clip
    mean: jax.Array  # log of the geometric mean


class Setting(NamedTuple):
    """What check and control share. Rows are the trajectories that get a step of their own."""

    instance: Instance
    traj: Trajectories
    rows: np.ndarray  # i[N]
    sign: jax.Array  # f[N]: A = +1 for a right answer, -1 for a wrong one
    x: jax.Array  # f[N, S]: 1 - pi of the drawn token; 0 outside of the masks
    moved: dict[str, Moved]  # by the name of the step; empty where the policy is not saturated


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
    batch = jax.tree.map(lambda x: x[index], traj)
    half = jnp.full(2, 0.5, traj.weight.dtype)
    return batch.replace(weight=half, group=jnp.zeros_like(batch.group), num_groups=1, exact=False)


def ascent(
    policy: Policy, params: Params, traj: Trajectories, row: jax.Array | int, A: jax.Array
) -> ComponentGradients:
    """Component gradients A sum grad log pi of one trajectory."""
    single = jax.tree.map(lambda x: x[row][None], traj)
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


def _slots(setting: Setting) -> list[int]:
    """Token positions of the decisions; the last slot is the forced stop."""
    L = setting.instance.policy.length
    return list(range(L, setting.x.shape[-1] - 1, L + 1))


def _brackets(setting: Setting, log_bounds: tuple[float, float] = LOG_BOUNDS) -> list[tuple[jax.Array, ...]]:
    """(step before, step after, whether any step clips) f[N] of the decision in each slot."""
    found = []
    for slot in _slots(setting):
        x = jnp.where(setting.traj.decision_mask[setting.rows][:, slot], setting.x[:, slot], 0.5)
        g = threshold(x, setting.sign, log_bounds=log_bounds)
        reached = jnp.isfinite(g)
        # A decision that no step can clip is tried at a step that moves its logits apart by 40 nats.
        before = jnp.where(reached, g * (1 - BRACKET), 20.0 / x)
        found.append((before, jnp.where(reached, g * (1 + BRACKET), before), reached))
    return found


def prepare(instance: Instance) -> Setting:
    """Rows with their advantage, the probability of each of their tokens, and all the steps."""
    traj, logp = enumerated(instance)
    B = traj.weight.shape[0]
    rows = np.unique(np.linspace(0, B - 1, min(B, ROWS)).astype(int))
    right = traj.reward[rows] > 0.5
    x = jnp.where(traj.mask, -jnp.expm1(logp), 0.0)[rows]
    setting = Setting(instance, traj, rows, jnp.where(right, 1.0, -1.0), x, {})
    shape = instance.shape
    if not shape.saturated or shape.history == "none":
        return setting

    policy, params = instance.policy, instance.params
    opposite = (traj.group[rows][:, None] == traj.group[None]) & ((traj.reward > 0.5)[None] != right[:, None])
    partner = jnp.argmax(opposite, axis=-1)
    flat, unravel = ravel_pytree(params)

    def direction(row: jax.Array, A: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradients = ascent(policy, params, traj, row, A)
        return ravel_pytree(gradients.total)[0], ravel_pytree(gradients.decision)[0]

    total, decision = jax.vmap(direction)(jnp.asarray(rows), setting.sign)
    steps = {"sign": ETA * jnp.sign(total), "gradient": STEP * total, "long": 10 * STEP * total}
    steps["decision"] = STEP * decision
    for name, bounds in (("", LOG_BOUNDS), (WRONG, (-CLIP, CLIP))):
        for slot, (before, after, _) in enumerate(_brackets(setting, bounds)):
            steps[f"before{slot}{name}"], steps[f"after{slot}{name}"] = before[:, None] * total, after[:, None] * total

    def one(step: jax.Array, row: jax.Array, other: jax.Array) -> Moved:
        return coefficients_after(policy, unravel(flat + step), pair_of(traj, row, other))

    every = jax.vmap(jax.vmap(one), in_axes=(0, None, None))(
        jnp.stack(list(steps.values())), jnp.asarray(rows), partner
    )
    moved = {name: jax.tree.map(lambda a, i=i: a[i], every) for i, name in enumerate(steps)}
    return setting._replace(moved=moved)


def _least(margin: jax.Array, where: jax.Array) -> Measured:
    """The least margin over the entries that a claim is about; 1 if there is none."""
    least = jnp.min(jnp.where(where, margin, 1.0))
    return Measured(shortfall(least), least)


def _any_step(setting: Setting) -> dict[str, Measured]:
    """From the parameters to the reference policy, any distance away: all tokens of all trajectories."""
    instance, traj = setting.instance, setting.traj
    L = instance.policy.length
    assert traj.old_logp is not None

    def ranges(new: Params) -> jax.Array:
        """f[B, S]: largest less smallest change of the logits of the softmax that each token is drawn from."""
        before, after = (instance.policy.log_dists(p, traj.prompt, traj.answers(L)) for p in (instance.params, new))
        moved_s, moved_d = (b - a for a, b in zip(before, after, strict=True))
        both = [jnp.max(moved, -1) - jnp.min(moved, -1) for moved in (moved_s, moved_d)]
        return jnp.concatenate([both[0], both[1][..., None]], axis=-1).reshape(traj.tokens.shape)

    w = ranges(instance.reference)
    x = jnp.where(traj.mask, -jnp.expm1(traj.old_logp), 0.0)
    log_rho = log_probs(instance.policy, instance.reference, traj) - traj.old_logp
    low, high = reach(x, w)
    sides = jnp.minimum(log_rho - low, high - log_rho)
    simple = jnp.minimum(log_rho + x * jnp.expm1(w), x * w - log_rho)
    return {REACH: _least(sides, traj.mask), SIMPLE: _least(simple, traj.mask)}


def _sign_bound(setting: Setting, x: jax.Array) -> jax.Array:
    low, high = reach(x, jnp.asarray(2.0 * ETA))
    return jnp.where(setting.sign[:, None] > 0, high, low)


def _pairs(setting: Setting) -> tuple[jax.Array, jax.Array, jax.Array]:
    """bool[N, S_d, S_s]: (a decision and a token of the row, x_s <= x_d, x_s far above x_d)."""
    mask_d, mask_s = (m[setting.rows] for m in (setting.traj.decision_mask, setting.traj.sample_mask))
    both = mask_d[:, :, None] & mask_s[:, None, :]
    x_d, x_s = setting.x[:, :, None], setting.x[:, None, :]
    far = jnp.where(setting.sign > 0, jnp.sqrt(2.0), 2.0)[:, None, None]
    return both, both & (x_s <= x_d), both & (x_s >= far * x_d)


def _clip_order(setting: Setting, name: str = "") -> dict[str, jax.Array]:
    """1 where GRPO breaks a claim at a decision's threshold, else 0; one decision slot of the rows after the other."""
    mask_d = setting.traj.decision_mask[setting.rows]
    _, below, above = _pairs(setting)
    broken: dict[str, list[jax.Array]] = {BINDS: [], FIRST: [], LAST: []}
    for i, (slot, (_, _, reached)) in enumerate(zip(_slots(setting), _brackets(setting), strict=True)):
        early = setting.moved[f"before{i}{name}"].token == 0
        late = setting.moved[f"after{i}{name}"].token == 0
        broken[BINDS].append(mask_d[:, slot] & (early[:, slot] | (reached & ~late[:, slot])))
        broken[FIRST].append(jnp.any(below[:, slot] & early & reached[:, None], -1))
        broken[LAST].append(jnp.any(above[:, slot] & ~late & reached[:, None], -1))
    return {claim: jnp.max(jnp.stack(x).astype(float)) for claim, x in broken.items()}


def _sequence(setting: Setting) -> tuple[dict[str, Measured], dict[str, jax.Array]]:
    """The geometric mean: (claims, controls)."""
    traj, rows, sign = setting.traj, setting.rows, setting.sign
    mask, mask_d = traj.mask[rows], traj.decision_mask[rows]
    L, T = setting.instance.policy.length, setting.instance.process.rounds
    tau = jnp.sum(traj.sample_mask[rows], -1) / L
    N = L * tau + jnp.minimum(tau, T - 1)
    decided = jnp.where(mask_d, decision_log_ratio(setting.x, STEP * sign[:, None]), 0.0).sum(-1)
    alone = setting.moved["decision"]
    errors, edge = [], jnp.where(sign > 0, LOG_BOUNDS[1], LOG_BOUNDS[0])
    for moved in (alone, setting.moved["long"]):
        total = jnp.sum(moved.log_rho, -1)
        dropped = jnp.where(sign > 0, total > N * edge, total < N * edge)
        errors.append(jnp.max(jnp.where(mask, (moved.geometric == 0) != dropped[:, None], False).astype(float)))
    mean, drawn = jnp.where(mask, alone.mean, 0.0), jnp.where(mask, 1.0, 0.0)
    claims = {
        DILUTED: Measured(gap(mean, drawn * (decided / N)[:, None])),
        GATE: Measured(jnp.max(jnp.stack(errors))),
    }
    return claims, {CONTROLS[5].name: gap(mean, drawn * (decided / L)[:, None])}


def check(setting: Setting) -> dict[str, Measured]:
    """The envelope for any policy; sign and gradient steps, GRPO's clip and the geometric mean on saturated ones."""
    measured = _any_step(setting)
    if not setting.moved:
        return measured
    traj, rows, sign, x = setting.traj, setting.rows, setting.sign, setting.x
    mask, mask_d, mask_s = (m[rows] for m in (traj.mask, traj.decision_mask, traj.sample_mask))
    moved = setting.moved["sign"].log_rho
    measured[SIGN] = Measured(gap(jnp.where(mask, moved, 0.0), jnp.where(mask, _sign_bound(setting, x), 0.0)))

    step, log_rho = STEP * sign[:, None], setting.moved["gradient"].log_rho
    decided = decision_log_ratio(x, step)
    measured[DECISION] = Measured(gap(jnp.where(mask_d, log_rho, 0.0), jnp.where(mask_d, decided, 0.0)))
    far, less, more = (jnp.abs(z) for z in (log_rho, decision_log_ratio(x, step / 2), decided))
    measured[TOKEN] = _least(jnp.minimum(far - less, more - far), mask_s)
    _, below, above = _pairs(setting)
    ahead = far[:, :, None] - far[:, None, :]
    measured[ORDER], measured[FAR] = _least(ahead, below), _least(-ahead, above)
    measured |= {name: Measured(error) for name, error in _clip_order(setting).items()}
    return measured | _sequence(setting)[0]


def control(setting: Setting) -> dict[str, jax.Array]:
    """Bounds in terms of the wrong thing, in the wrong direction, for the wrong choice."""
    if not setting.moved:
        return {}
    traj, rows, sign, x = setting.traj, setting.rows, setting.sign, setting.x
    mask, mask_d, mask_s = (m[rows] for m in (traj.mask, traj.decision_mask, traj.sample_mask))
    vocabulary = setting.instance.shape.vocabulary
    moved = jnp.where(mask, setting.moved["sign"].log_rho, 0.0)
    flat = jnp.where(mask_s, 1.0 - 1.0 / vocabulary, x)
    log_rho = setting.moved["gradient"].log_rho
    # Of all rows: some decision was likelier than some token, since both STOP and RESAMPLE are taken and every symbol
    # is drawn.
    least = jnp.min(jnp.where(mask_d, jnp.abs(log_rho), jnp.inf))
    errors = {
        CONTROLS[0].name: gap(moved, jnp.where(mask, _sign_bound(setting, flat), 0.0)),
        CONTROLS[1].name: shortfall(jnp.min(2.0 * ETA * x - jnp.abs(moved))),
        CONTROLS[3].name: shortfall(least - jnp.max(jnp.where(mask_s, jnp.abs(log_rho), 0.0))),
        CONTROLS[4].name: _clip_order(setting, WRONG)[BINDS],
        CONTROLS[5].name: _sequence(setting)[1][CONTROLS[5].name],
    }
    if vocabulary > 2:
        wrong = jnp.where(mask_s, decision_log_ratio(x, STEP * sign[:, None]), 0.0)
        errors[CONTROLS[2].name] = gap(jnp.where(mask_s, log_rho, 0.0), wrong)
    return errors


THEOREM = Theorem(
    id="T15",
    title="Ratio clipping binds on pi_d first, where pi_d is less peaked",
    statement="-log(1 + x (e^w - 1)) <= log rho <= -log(1 - x (1 - e^-w)), x = 1 - pi: what is less peaked clips first",
    provenance="[N]",
    assumptions=(
        "w: range (largest less smallest) of the logits' change in the softmax that the token is drawn from",
        "steps on one trajectory: one softmax per context, each visited once",
        "clip of each token's own ratio (GRPO); binary verifier, c = 0, group of two",
    ),
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
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "1/rho = E_pi[exp(delta_u - delta_v)] = 1 - x + x m with m, a mean over the other symbols, in [e^-w, e^w]. For "
        "delta = g A (e_v - pi): delta_u - delta_v = -g A (x + pi_u) with 0 <= pi_u <= x, and pi_u = x for a decision. "
        "Both bounds grow with x."
    ),
    requires=(BINARY, FREE, MIXED, RESAMPLES),
    prepare=prepare,
    check=check,
    control=control,
)
