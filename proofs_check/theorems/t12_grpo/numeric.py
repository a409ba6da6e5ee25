"""T12: dividing by the group's standard deviation is, on average, one factor a prompt and none between components."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import comb, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dsjax.attribution import ComponentGradients, component_gradients, energy, fisher
from dsjax.objectives import Objective, grpo, reinforce, rloo
from dsjax.objectives.advantages import advantage
from dsjax.policies import Params, log_probs
from dsjax.trajectories import Trajectories
from proofs_check.instances import Instance, Shape, enumerated
from proofs_check.numerics import ENERGY, SUM, gap, shortfall
from proofs_check.requirements import MIXED_IF_BINARY
from proofs_check.theorem import Claim, Control, Measured, Theorem

GROUP = 4  # the smallest group that re-weights
SIZES = (2, 3, 4, 8, 64)
EPSILON = 0.1  # a large one, so that leaving it out would be seen

CLAIMS = (
    Claim("GRPO, sequence sum: G_s and G_d are those of sum_q mu(q) c_G(p_q) p_q", SUM),
    Claim("epsilon > 0: the same with c = E[std^2 / (std + epsilon)] / (p (1-p))", SUM),
    Claim("GRPO, token mean, T = 1: the same with c_G / L", SUM),
    Claim("group-mean baseline: (G-1)/G grad J; leave-one-out: exactly grad J (any verifier, any cost)", SUM),
    # Energies of two gradients that are multiples of each other, by the same eigenvectors.
    Claim("decision share of energy at a prompt is that of REINFORCE", ENERGY),
    # gammaln(64) = 200 nats stand in an exponent, and A <= 8: 200 x 8 x a few EPS.
    Claim("c_G = A(right) - A(wrong) = E[std_G] / (p (1-p))", SUM),
    Claim("c_2 = 1 and c_3 = sqrt(2), whatever p", SUM),
    Claim("G >= 4: 2 (G-1)/G < c_G < sqrt(G-1)", SUM, strict=True),
    Claim("1 - (1 + 1/(p (1-p)))/(2 G) < c_G sqrt(p (1-p)) < sqrt(1 - 1/G)", SUM, strict=True),
    Claim("c_G grows with G", SUM, strict=True),
)
(SUMMED, SMOOTHED, ONE_ROUND, BASELINE, SHARE, FACTOR, FLAT, RANGE, LIMIT, GROWS) = (c.name for c in CLAIMS)
CONTROLS = (
    Control("the limit 1/sqrt(p (1-p)) at G = 4", SUMMED),
    Control("c_(G-1) for c_G", SUMMED),
    Control("epsilon left out", SMOOTHED),
    Control("GRPO, token mean, T >= 2: one factor for all contexts of a prompt", ONE_ROUND),
    Control("GRPO, sequence sum: one factor for all prompts", SUMMED),
    Control("group-mean baseline said to be unbiased", BASELINE),
    Control("standard deviation over G - 1", FACTOR),
)

normalised = partial(reinforce, baseline="group_normalised")
summed = partial(normalised, group_size=GROUP, epsilon=0.0)
smoothed = partial(normalised, group_size=GROUP, epsilon=EPSILON)
token_mean = partial(grpo, group_size=GROUP, epsilon=0.0)
centred = partial(reinforce, baseline="group_mean", group_size=GROUP)


class Setting(NamedTuple):
    """What check and control share."""

    instance: Instance
    traj: Trajectories
    p: jax.Array  # f[Q] P(right), or the mean return where the verifier is graded
    exact: tuple[Params, Params]  # (grad p_q through pi_sample, through pi_d), each with a leading axis Q
    gradients: dict[str, ComponentGradients]  # of the objectives that the shape is there for


def _objectives(shape: Shape) -> dict[str, Objective]:
    """Each shape has its own, since a gradient's program takes longer to compile than to run."""
    if shape.graded or shape.cost:
        return {"centred": centred, "leave one out": rloo}
    if not shape.saturated:
        return {"summed": summed}
    if shape.rounds == 1:
        return {"summed": summed, "smoothed": smoothed, "token mean": token_mean}
    return {"summed": summed, "token mean": token_mean, "reinforce": reinforce}


def prepare(instance: Instance) -> Setting:
    """The exact law, and the gradient of each prompt's success probability by autodiff of the backward recursion."""
    process, policy, params = instance.process, instance.policy, instance.params
    traj, _ = enumerated(instance)

    def values(sampler: Any, decider: Any) -> tuple[jax.Array, jax.Array]:
        """V_1(q) f[Q], which is p_q for a binary verifier, with each component at its own parameters; twice."""
        logp = jnp.where(traj.sample_mask, log_probs(policy, sampler, traj), log_probs(policy, decider, traj))
        V = process.values(process.tables(logp), traj.reward).V[0][:, 0]
        return V, V

    exact, p = jax.jacrev(values, argnums=(0, 1), has_aux=True)(params, params)
    gradients = {n: component_gradients(policy, params, traj, f) for n, f in _objectives(instance.shape).items()}
    return Setting(instance, traj, p, exact, gradients)


def mean_of_group(p_Q: jax.Array, size: int, value: Callable[[np.ndarray], np.ndarray]) -> jax.Array:
    """f[Q]: E[value(std_G)] with std_G = sqrt(k (G-k))/G, k ~ Bin(G, p), by the definition."""
    k = np.arange(size + 1.0)
    ways = np.array([float(comb(size, i)) for i in range(size + 1)])
    weights = ways * value(np.sqrt(k * (size - k)) / size)
    p_Qx1 = p_Q[:, None]
    return jnp.sum(weights[None] * p_Qx1 ** k[None] * (1.0 - p_Qx1) ** (size - k)[None], axis=-1)


def factor(p_Q: jax.Array, size: int, epsilon: float = 0.0) -> jax.Array:
    """f[Q]: c_G(p); degenerate groups give 0."""

    def value(std: np.ndarray) -> np.ndarray:
        return std**2 / np.where(std > 0, std + epsilon, 1.0)

    return mean_of_group(p_Q, size, value) / (p_Q * (1.0 - p_Q))


def _gap(setting: Setting, measured: ComponentGradients, c_Q: jax.Array | float) -> jax.Array:
    """Distance of (G_s, G_d) from those of sum_q mu(q) c(q) p_q, component by component."""
    weight_Q = setting.instance.process.prompt_law * c_Q

    def mixed(jacobian: Params) -> Params:
        return jax.tree.map(lambda x: jnp.tensordot(weight_Q, x, 1), jacobian)

    exact_s, exact_d = setting.exact
    return jnp.maximum(gap(measured.sample, mixed(exact_s)), gap(measured.decision, mixed(exact_d)))


def _measured_factor(setting: Setting, size: int) -> jax.Array:
    """f[Q]: how much more a right trajectory weighs than a wrong one."""
    traj = setting.traj
    A_B = advantage("group_normalised", traj.reward, traj, group_size=size, epsilon=0.0)
    of_prompt = traj.prompt[:, 0][None, :] == jnp.arange(setting.p.size, dtype=traj.prompt.dtype)[:, None]

    def mean(right: bool) -> jax.Array:
        chosen = of_prompt & ((traj.reward > 0.5) == right)[None, :]
        return jnp.mean(jnp.broadcast_to(A_B[None, :], chosen.shape), axis=-1, where=chosen)

    return mean(True) - mean(False)


def _first_prompt(gradient: Params) -> Params:
    """The part on the first prompt's own contexts (saturated: every prompt has its own)."""
    return jax.tree.map(lambda x: x.at[1:].set(0.0), gradient)


def _share_gap(setting: Setting) -> jax.Array:
    """Decision shares of energy at the first prompt, GRPO against REINFORCE."""
    F_s, F_d = fisher(setting.instance.policy, setting.instance.params, setting.traj)

    def share(gradients: ComponentGradients) -> jax.Array:
        E_d = energy(_first_prompt(gradients.decision), F_d)
        return E_d / (energy(_first_prompt(gradients.sample), F_s) + E_d)

    return gap(share(setting.gradients["summed"]), share(setting.gradients["reinforce"]))


def _range(c: dict[int, jax.Array]) -> jax.Array:
    """Smallest slack of the bounds that do not shrink with p; equalities at G = 2 and 3."""
    slack = [jnp.minimum(c[G] - 2 * (G - 1) / G, sqrt(G - 1) - c[G]) for G in SIZES if G >= 4]
    return jnp.min(jnp.stack(slack))


def _limit(p: jax.Array, c: dict[int, jax.Array]) -> jax.Array:
    """Smallest slack of the bounds that meet as G grows, in units of the limit 1/sqrt(p (1-p))."""
    v = p * (1.0 - p)
    slack = []
    for G in SIZES:
        scaled = c[G] * jnp.sqrt(v)
        slack.append(jnp.minimum(sqrt(1 - 1 / G) - scaled, scaled - 1 + (1 + 1 / v) / (2 * G)))
    return jnp.min(jnp.stack(slack))


def check(setting: Setting) -> dict[str, Measured]:
    """Both components' gradients, prompt by prompt; the factor's value, bounds and limit."""
    shape, gradients, p = setting.instance.shape, setting.gradients, setting.p
    if shape.graded or shape.cost:
        biased = _gap(setting, gradients["centred"], (GROUP - 1) / GROUP)
        return {BASELINE: Measured(jnp.maximum(biased, _gap(setting, gradients["leave one out"], 1.0)))}
    measured = {SUMMED: Measured(_gap(setting, gradients["summed"], factor(p, GROUP)))}
    if shape.rounds == 1 and shape.saturated:
        c = {G: _measured_factor(setting, G) for G in SIZES}
        bounds, limit = _range(c), _limit(p, c)
        growth = jnp.min(jnp.stack([c[b] - c[a] for a, b in pairwise(SIZES)]))
        measured |= {
            SMOOTHED: Measured(_gap(setting, gradients["smoothed"], factor(p, GROUP, EPSILON))),
            ONE_ROUND: Measured(_gap(setting, gradients["token mean"], factor(p, GROUP) / shape.length)),
            FACTOR: Measured(jnp.max(jnp.stack([gap(c[G], factor(p, G)) for G in SIZES]))),
            FLAT: Measured(jnp.maximum(gap(c[2], jnp.ones_like(p)), gap(c[3], jnp.full_like(p, sqrt(2))))),
            RANGE: Measured(shortfall(bounds), bounds),
            LIMIT: Measured(shortfall(limit), limit),
            GROWS: Measured(shortfall(growth), growth),
        }
    elif shape.saturated:
        measured[SHARE] = Measured(_share_gap(setting))
    return measured


def _no_factor(direction: Any, gradient: Any) -> jax.Array:
    """Distance of the gradient, scaled to length 1, from its best multiple of the direction."""
    g, h = ravel_pytree(gradient)[0], ravel_pytree(direction)[0]
    return gap(g / jnp.sqrt(g @ g), h * (g @ h) / (h @ h) / jnp.sqrt(g @ g))


def control(setting: Setting) -> dict[str, jax.Array]:
    """Factors that are each off by one idea, and factors said to exist where there is none."""
    shape, gradients, p = setting.instance.shape, setting.gradients, setting.p
    if shape.network:  # nothing keeps a network from being almost certain, and then wrong variants are small
        return {}
    if shape.graded or shape.cost:
        return {CONTROLS[5].name: _gap(setting, gradients["centred"], 1.0)}
    total = jax.tree.map(jnp.add, *setting.exact)  # grad p_q, leading axis Q
    J = jax.tree.map(lambda x: jnp.tensordot(setting.instance.process.prompt_law, x, 1), total)
    errors = {
        CONTROLS[0].name: _gap(setting, gradients["summed"], 1.0 / jnp.sqrt(p * (1.0 - p))),
        CONTROLS[1].name: _gap(setting, gradients["summed"], factor(p, GROUP - 1)),
        CONTROLS[4].name: _no_factor(J, gradients["summed"].total),
    }
    if not shape.saturated:
        return errors
    if shape.rounds == 1:
        sample_std = factor(p, GROUP) * sqrt((GROUP - 1) / GROUP)
        errors[CONTROLS[6].name] = gap(_measured_factor(setting, GROUP), sample_std)
        errors[CONTROLS[2].name] = _gap(setting, gradients["smoothed"], factor(p, GROUP))
    else:
        errors[CONTROLS[3].name] = _no_factor(_first_prompt(J), _first_prompt(gradients["token mean"].total))
    return errors


THEOREM = Theorem(
    id="T12",
    title="GRPO is balanced inside a trajectory and re-weights prompts",
    statement="E[GRPO] at a prompt = c_G(p) grad p, c_G = E[std_G]/(p(1-p)): 1 at G=2, tends to 1/sqrt(p(1-p))",
    provenance="[N]",
    assumptions=(
        "on-policy, binary verifier, c = 0; population standard deviation, groups without spread give 0",
        "sum over the tokens of a sequence: dividing by T_i is T13, and harmless for T = 1",
        "a prompt whose p is 0 or 1 has no gradient; the bounds are for 0 < p < 1",
    ),
    shapes=(
        Shape(rounds=1, length=2, vocabulary=3, prompts=2, history="none"),
        Shape(rounds=2, length=3, vocabulary=2, prompts=2, history="none"),
        Shape(rounds=3, length=1, vocabulary=4, prompts=2, shared=9),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=2, prompts=2, network=True),
        Shape(rounds=1, length=4, vocabulary=2, prompts=2, shared=4),
        Shape(rounds=1, length=5, vocabulary=2, history="none", graded=True, shared=4),
        Shape(rounds=1, length=6, vocabulary=2, prompts=2, shared=4),
    ),
    claims=CLAIMS,
    controls=CONTROLS,
    proof=(
        "A binary return makes the expected advantage affine in R, with slope A(right) - A(wrong) = c_G, so the "
        "gradient is c_G grad p in both components. c_G p (1-p) = E[A (R - p)]; by symmetry among the G members, "
        "whose A sum to 0, that is E[std_G]. Bounds: 2 k (G-k)/G <= sqrt(k (G-k)) <= k (G-k)/sqrt(G-1), and Jensen."
    ),
    requires=(MIXED_IF_BINARY,),
    prepare=prepare,
    check=check,
    control=control,
)
