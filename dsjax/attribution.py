"""How a gradient is shared between `pi_sample` and `pi_d`.

One idea: an objective is a function of log-probs, so its derivative is one coefficient per token, and the gradient of a
component is the pull-back of that component's coefficients alone (the other component's log-probs behind a
stop-gradient). Components therefore add up to the whole gradient for every objective and every policy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives import Objective, SumCount
from dsjax.policies.base import Params, Policy, Pull, log_probs, vjp_again
from dsjax.rollouts.diagnosis import from_rollouts as from_rollouts
from dsjax.trajectories import Trajectories


class ComponentGradients(struct.PyTreeNode):
    """Ascent directions (minus the gradient of the loss); `sample + decision` is the gradient of the objective."""

    sample: Params  # G_s, a pytree like the parameters
    decision: Params  # G_d
    loss: jax.Array  # f[] sum / count

    @property
    def total(self) -> Params:
        """G = G_s + G_d."""
        return jax.tree.map(jnp.add, self.sample, self.decision)


class Attribution(struct.PyTreeNode):
    """The columns of docs/theory.md, section 1: four conventions that are not interchangeable."""

    coefficient_sample: jax.Array  # (i) mean |c| per sampling factor (per token; a block of L tokens has L of them)
    coefficient_decision: jax.Array  # (i) mean |c| per decision factor
    block_share: jax.Array  # (iii) decisions' part of the total |c|, by tokens: c_d / (L c_s + c_d)
    energy_sample: jax.Array  # (iv) E_s = G_s^T F_s^+ G_s
    energy_decision: jax.Array  # (iv) E_d
    share: jax.Array  # (iv) E_d / (E_s + E_d)
    norm_sample: jax.Array  # |G_s|, Euclidean in parameter space
    norm_decision: jax.Array  # |G_d|
    euclidean_share: jax.Array  # |G_d|^2 / (|G_s|^2 + |G_d|^2)
    cosine: jax.Array  # cos(G_s, G_d) in parameter space


def loss_of(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """sum / count of the objective; 0 where there is nothing to learn from (count = 0)."""
    return mean_of(sum_and_count(objective, logp_BxS, traj))


def sum_and_count(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """What the objective returns: two numbers, as arrays of one dtype.

    Raises:
      InputError: if it returns anything else, naming the objective.
    """
    returned: Any = objective(logp_BxS, traj)
    several = isinstance(returned, tuple)
    # A Python number has no shape, and nor has anything that is no number.
    shapes = [
        getattr(x, "shape", () if isinstance(x, int | float) else type(x).__name__)
        for x in (returned if several else [returned])
    ]
    function: Any = objective
    while isinstance(function, partial):
        function = function.func
    field = f"what objective {getattr(function, '__name__', function)} returns"
    received = f"{len(shapes)} value{'s' * several} of shape{'s' * several} {', '.join(map(str, shapes))}"
    require(several and shapes == [(), ()], field, received, "two numbers, (sum, count), each of shape ()")
    total, count = returned
    return jnp.asarray(total, logp_BxS.dtype), jnp.asarray(count, logp_BxS.dtype)


def mean_of(sum_count: SumCount) -> jax.Array:
    """sum / count, the count as data; 0 where count = 0."""
    total, count = sum_count
    count = jax.lax.stop_gradient(count)
    return divide(total, count)


def coefficients(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """c_BxS: ascent coefficient of every token, -d loss / d logp; 0 outside of the masks.

    On an exact law it includes the trajectory's probability: c_it = weight_i x (coefficient of objectives.md).
    """
    c_BxS = -jax.grad(lambda logp: loss_of(objective, logp, traj))(logp_BxS)
    return jnp.where(traj.mask, c_BxS, 0.0)


COMPONENTS = ("both", "sample", "decision")


def component_mask(traj: Trajectories, component: str) -> jax.Array:
    """bool[B, S]: the tokens of `sample`, `decision` or `both`."""
    require(component in COMPONENTS, "component", component, COMPONENTS)
    return {"both": traj.mask, "sample": traj.sample_mask, "decision": traj.decision_mask}[component]


def pull_back(
    policy: Policy,
    params: Params,
    traj: Trajectories,
    objective: Objective,
    components: tuple[str, ...],
) -> tuple[jax.Array, tuple[Params, ...]]:
    """(loss, ascent directions of the named components) of a policy on `traj`.

    One forward pass and one pull-back a component. Where the policy recomputes its activations, a second forward pass
    for an objective whose coefficients depend on the log-probs; for one that is linear in them (SFT, REINFORCE, RLOO)
    the loss comes from the recomputed ones.
    """
    return _pulled_back(policy.log_probs_vjp(params, traj), traj, objective, components)


def pull_back_through(
    logp_fn: Callable[[Params], jax.Array],
    params: Params,
    traj: Trajectories,
    objective: Objective,
    components: tuple[str, ...],
) -> tuple[jax.Array, tuple[Params, ...]]:
    """`pull_back` through any map from parameters to logp_BxS."""
    return _pulled_back(vjp_again(logp_fn, params), traj, objective, components)


def _pulled_back(
    logp_and_pull: tuple[jax.Array, Pull], traj: Trajectories, objective: Objective, components: tuple[str, ...]
) -> tuple[jax.Array, tuple[Params, ...]]:
    logp_BxS, pull = logp_and_pull
    c_BxS = coefficients(objective, logp_BxS, traj)
    logp_BxS, gradients = pull(tuple(jnp.where(component_mask(traj, name), c_BxS, 0.0) for name in components))
    return loss_of(objective, logp_BxS, traj), gradients


def component_gradients(policy: Policy, params: Params, traj: Trajectories, objective: Objective) -> ComponentGradients:
    """G_s and G_d of an objective at `params` on `traj`."""
    loss, (sample, decision) = pull_back(policy, params, traj, objective, ("sample", "decision"))
    return ComponentGradients(sample, decision, loss)


def fisher(policy: Policy, params: Params, traj: Trajectories) -> tuple[jax.Array, jax.Array]:
    """(F_s, F_d), each f[P, P] in `ravel_pytree` order.

    F_c = E[sum over the component's token decisions of score score^T]: contexts by the law of `traj`, the token in
    each context by the policy (so off-policy data gives the Fisher matrix under the data's contexts).
    """
    flat, unravel = ravel_pytree(params)
    L = policy.length

    def dists(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        return policy.log_dists(unravel(p), traj.prompt, traj.answers(L))

    log_s, log_d = dists(flat)
    jac_s, jac_d = jax.jacfwd(dists)(flat)
    mask_BxKxL1 = traj.blocks(traj.mask, L)
    weight = traj.weight[:, None, None]
    weight_s = jnp.where(mask_BxKxL1[..., :L], weight, 0.0)
    weight_d = jnp.where(mask_BxKxL1[..., L], weight[..., 0], 0.0)

    def outer(w: jax.Array, log_dist: jax.Array, jac: jax.Array) -> jax.Array:
        rows = jac.reshape(-1, flat.size)
        scale = (w[..., None] * jnp.exp(log_dist)).reshape(-1, 1)
        return rows.T @ (scale * rows) / jnp.sum(traj.weight)

    return outer(weight_s, log_s, jac_s), outer(weight_d, log_d, jac_d)


@jax.custom_batching.sequential_vmap
def _eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(eigenvalues, eigenvectors), one matrix at a time under `vmap`.

    A batched `eigh` on the CPU blocks a worker of XLA's thread pool until other workers have done its parts. Two of
    them in one program, as for (E_s, E_d), can block all workers for ever on a machine with two cores.
    """
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return eigenvalues, vectors


def energy(gradient: Params, fisher_PxP: jax.Array) -> jax.Array:
    """G^T F^+ G for G in the range of F, as every component gradient is.

    Rows are first scaled to a unit diagonal, which leaves the value unchanged and keeps rarely visited contexts above
    the rank cut: relative eigenvalues below P x eps are null directions of the softmax.
    """
    g, _ = ravel_pytree(gradient)
    diagonal = jnp.diagonal(fisher_PxP)
    seen = diagonal > 0
    scale = jnp.where(seen, 1.0 / jnp.sqrt(jnp.where(seen, diagonal, 1.0)), 0.0)
    eigenvalues, vectors = _eigh(fisher_PxP * scale[:, None] * scale[None, :])
    cut = 8 * g.size * jnp.finfo(g.dtype).eps * jnp.maximum(eigenvalues[-1], 0.0)
    kept = eigenvalues > cut
    projected = vectors.T @ (scale * g)
    return jnp.sum(jnp.where(kept, projected**2 / jnp.where(kept, eigenvalues, 1.0), 0.0))


def energies(
    policy: Policy, params: Params, traj: Trajectories, gradients: ComponentGradients
) -> tuple[jax.Array, jax.Array]:
    """(E_s, E_d) in the Fisher metric of the policy under the contexts of `traj`."""
    F_s, F_d = fisher(policy, params, traj)
    return energy(gradients.sample, F_s), energy(gradients.decision, F_d)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole; NaN where nothing is shared out (whole = 0), without a NaN in the gradient."""
    return divide(part, whole, jnp.nan)


def inner(a: Params, b: Params) -> jax.Array:
    """Euclidean inner product of two pytrees."""
    products: list[jax.Array] = [jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(products[1:], products[0])


def euclidean(gradients: ComponentGradients) -> dict[str, jax.Array]:
    """Norms, decision share and cosine in parameter space (depends on the parametrisation, unlike the energies)."""
    ss, dd = inner(gradients.sample, gradients.sample), inner(gradients.decision, gradients.decision)
    sd = inner(gradients.sample, gradients.decision)
    return {
        "norm_sample": jnp.sqrt(ss),
        "norm_decision": jnp.sqrt(dd),
        "euclidean_share": ratio(dd, ss + dd),
        "cosine": ratio(sd, jnp.sqrt(ss) * jnp.sqrt(dd)),
    }


def attribute(policy: Policy, params: Params, traj: Trajectories, objective: Objective) -> Attribution:
    """Every convention of attribution at once, for policies small enough for a P x P Fisher matrix."""
    gradients = component_gradients(policy, params, traj, objective)
    E_s, E_d = energies(policy, params, traj, gradients)
    c_BxS = jnp.abs(coefficients(objective, log_probs(policy, params, traj), traj))
    weight_Bx1 = traj.weight[:, None]

    def total(mask_BxS: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(jnp.where(mask_BxS, c_BxS, 0.0)), jnp.sum(jnp.where(mask_BxS, weight_Bx1, 0.0))

    (c_s, n_s), (c_d, n_d) = total(traj.sample_mask), total(traj.decision_mask)
    columns: dict[str, Any] = euclidean(gradients)
    return Attribution(
        coefficient_sample=ratio(c_s, n_s),
        coefficient_decision=ratio(c_d, n_d),
        block_share=ratio(c_d, c_s + c_d),
        energy_sample=E_s,
        energy_decision=E_d,
        share=ratio(E_d, E_s + E_d),
        **columns,
    )
