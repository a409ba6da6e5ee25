"""How a gradient is shared between `pi_sample` and `pi_d`.

One idea: an objective is a function of log-probs, so its derivative is one coefficient per token, and the gradient of a
component is the pull-back of that component's coefficients alone (the other component's log-probs behind a
stop-gradient). Components therefore add up to the whole gradient for every objective and every policy.

From top to bottom: coefficients, component gradients, Fisher energies, the conventions (i) to (iv) of docs/theory.md
by which a share is told, and signal to noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from dsjax.errors import require
from dsjax.numerics import divide
from dsjax.objectives import Objective
from dsjax.objectives.law import on_law
from dsjax.objectives.returns import coefficients, loss_of
from dsjax.policies.base import Params, Policy, Pull, log_probs, vjp_again
from dsjax.trajectories import Trajectories, context_codes, namespace


class ComponentGradients(struct.PyTreeNode):
    """Ascent directions (minus the gradient of the loss); `sample + decision` is the gradient of the objective."""

    sample: Params  # G_s, a pytree like the parameters
    decision: Params  # G_d
    loss: jax.Array  # f[] sum / count

    @property
    def total(self) -> Params:
        """G = G_s + G_d."""
        return jax.tree.map(jnp.add, self.sample, self.decision)


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
    """G_s and G_d, the ascent directions of an objective through answer tokens and through decisions.

    Args:
      policy: any `Policy`.
      params: its parameters, where the gradients are taken.
      traj: B trajectories with their law.
      objective: `(logp_BxS, traj) -> (sum, count)`, as of `objective(name)`.

    Returns:
      Two pytrees like the parameters, whose sum is minus the gradient of the loss; and the loss f[].
    """
    loss, (sample, decision) = pull_back(policy, params, traj, objective, ("sample", "decision"))
    return ComponentGradients(sample, decision, loss)


def _by_context(traj: Trajectories, length: int, *, past: bool) -> tuple[Any, Any, jax.Array]:
    """(prompts, answers, weight f[R, K, L + 1]) of R trajectories, with the mass that visits each of their contexts.

    All trajectories as they are; where the tokens are known in NumPy, the fewest in which every context occurs, each
    context with the mass of all that visit it: a policy sees no more than the context (`Policy.log_dists`).
    """
    answers, mask_BxKxL1 = traj.answers(length), traj.blocks(traj.mask, length)
    if namespace(traj.prompt, answers, mask_BxKxL1) is jnp:
        return traj.prompt, answers, jnp.where(mask_BxKxL1, traj.weight[:, None, None], 0.0)
    mask_BxKxL1 = np.asarray(mask_BxKxL1)
    code_BxKxL1 = context_codes(np.asarray(traj.prompt), np.asarray(answers), past=past)
    rows, place_BxKxL1 = _representatives(code_BxKxL1, mask_BxKxL1)
    slots = mask_BxKxL1[0].size
    visits = np.flatnonzero(mask_BxKxL1)
    mass = jax.ops.segment_sum(traj.weight[visits // slots], place_BxKxL1.ravel()[visits], rows.size * slots)
    return traj.prompt[rows], answers[rows], mass.reshape(rows.size, *mask_BxKxL1.shape[1:])


def _representatives(code_BxKxL1: np.ndarray, mask_BxKxL1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(i[R] trajectories in which every context occurs that is drawn from, i[B, K, L + 1] its place among them)."""
    B, slots = mask_BxKxL1.shape[0], mask_BxKxL1[0].size
    code, mask = code_BxKxL1.reshape(B, slots), mask_BxKxL1.reshape(B, slots)
    chosen = np.zeros(B, bool)
    for slot in reversed(range(slots)):  # the longest first: in a trajectory that has one all of its prefixes occur
        missing = np.flatnonzero(mask[:, slot] & ~np.isin(code[:, slot], code[chosen, slot]))
        chosen[missing[np.unique(code[missing, slot], return_index=True)[1]]] = True
    rows = np.flatnonzero(chosen)
    place = np.zeros((B, slots), np.int32)
    for slot in range(slots):
        known, first = np.unique(code[rows, slot], return_index=True)
        at = np.minimum(np.searchsorted(known, code[:, slot]), len(known) - 1)
        place[:, slot] = first[at] * slots + slot
    return rows, place.reshape(code_BxKxL1.shape)


def fisher(policy: Policy, params: Params, traj: Trajectories) -> tuple[jax.Array, jax.Array]:
    """(F_s, F_d), each f[P, P] in `ravel_pytree` order.

    F_c = E[sum over the component's token decisions of score score^T]: contexts by the law of `traj`, the token in
    each context by the policy (so off-policy data gives the Fisher matrix under the data's contexts).
    """
    flat, unravel = ravel_pytree(params)
    L = policy.length
    prompt_RxP, answers_RxKxL, weight_RxKxL1 = _by_context(traj, L, past=policy.history == "full")

    def dists(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        return policy.log_dists(unravel(p), prompt_RxP, answers_RxKxL)

    log_s, log_d = dists(flat)
    jac_s, jac_d = jax.jacfwd(dists)(flat)
    weight_s, weight_d = weight_RxKxL1[..., :L], weight_RxKxL1[..., L]

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


class _Spectrum(NamedTuple):
    """A Fisher matrix scaled to a unit diagonal, as eigenvalues and eigenvectors, and what is cut off as null.

    The scaling leaves `G^T F^+ G` unchanged for G in the range of F and keeps rarely visited contexts above the rank
    cut: relative eigenvalues below 8 P eps are null directions of the softmax. Features that are collinear but for an
    angle a leave a relative eigenvalue of a^2/4, and the value an error of about eps/a^2.
    """

    scale: jax.Array  # f[P], 0 for parameters that nothing depends on
    eigenvalues: jax.Array  # f[P]
    vectors: jax.Array  # f[P, P]
    kept: jax.Array  # bool[P]


def _spectrum(fisher_PxP: jax.Array) -> _Spectrum:
    diagonal = jnp.diagonal(fisher_PxP)
    seen = diagonal > 0
    scale = jnp.where(seen, 1.0 / jnp.sqrt(jnp.where(seen, diagonal, 1.0)), 0.0)
    eigenvalues, vectors = _eigh(fisher_PxP * scale[:, None] * scale[None, :])
    cut = 8 * scale.size * jnp.finfo(scale.dtype).eps * jnp.maximum(eigenvalues[-1], 0.0)
    return _Spectrum(scale, eigenvalues, vectors, eigenvalues > cut)


def energy(gradient: Params, fisher_PxP: jax.Array) -> jax.Array:
    """G^T F^+ G for G in the range of F, as every component gradient is."""
    g, _ = ravel_pytree(gradient)
    scale, eigenvalues, vectors, kept = _spectrum(fisher_PxP)
    projected = vectors.T @ (scale * g)
    return jnp.sum(jnp.where(kept, projected**2 / jnp.where(kept, eigenvalues, 1.0), 0.0))


def natural_step(gradient: Params, fisher_PxP: jax.Array) -> Params:
    """x with F x = G, a pytree like G, for G in the range of F: the direction of most gain for its KL.

    To second order the KL of a step x is `x^T F x / 2`; of all steps of that KL this one, scaled, has the largest
    `G . x`, and that is `G^T F^+ G` before scaling. With `F = F_s + F_d` it is the step of both components together.
    """
    g, unravel = ravel_pytree(gradient)
    scale, eigenvalues, vectors, kept = _spectrum(fisher_PxP)
    projected = vectors.T @ (scale * g)
    return unravel(scale * (vectors @ jnp.where(kept, projected / jnp.where(kept, eigenvalues, 1.0), 0.0)))


def gains(gradients: ComponentGradients, step: Params) -> tuple[jax.Array, jax.Array]:
    """(G_s . x, G_d . x): what a step x brings to first order through each component; together `G . x`."""
    return inner(gradients.sample, step), inner(gradients.decision, step)


def energies(
    policy: Policy, params: Params, traj: Trajectories, gradients: ComponentGradients
) -> tuple[jax.Array, jax.Array]:
    """(E_s, E_d), E_c = G_c^T F_c^+ G_c in the Fisher metric of the policy under the contexts of `traj`; each f[].

    Args:
      policy: with few enough parameters, P, for matrices f[P, P].
      params: its parameters.
      traj: B trajectories with their law.
      gradients: of `component_gradients`; the energies have the unit of the objective, squared.
    """
    F_s, F_d = fisher(policy, params, traj)
    return energy(gradients.sample, F_s), energy(gradients.decision, F_d)


def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole; NaN where nothing is shared out (whole = 0), without a NaN in the gradient."""
    return divide(part, whole, jnp.nan)


def share(part: Any, other: Any) -> Any:
    """part / (part + other), for NumPy and JAX arrays alike; NaN where neither is positive."""
    return divide(part, part + other, np.nan)


class Tally(NamedTuple):
    """Coefficients k of one component, added up trajectory by trajectory (f[B]), so that a bootstrap can weight them.

    Of `Trajectories` (JAX) or of rollouts in NumPy arrays of the same names, and then NumPy arrays themselves.
    """

    absolute: Any  # w_i times the sum of |k|
    signed: Any  # w_i times the sum of k
    count: Any  # w_i times the number of factors or tokens

    @property
    def mean(self) -> Any:
        """f[]: sum_i absolute_i / sum_i count_i; NaN where the component has drawn nothing."""
        return divide(self.absolute.sum(), self.count.sum(), np.nan)


def by_answer(x_BxS: Any, drawn: Any) -> Any:
    """f[B, S]: the sum of x over the sampling tokens of each round; column = round."""
    B, S = x_BxS.shape
    if isinstance(x_BxS, np.ndarray):
        place_BxS = np.arange(B)[:, None] * S + drawn.round
        return np.bincount(place_BxS.ravel(), np.where(drawn.sample_mask, x_BxS, 0.0).ravel(), B * S).reshape(B, S)
    x_BxS = jnp.where(drawn.sample_mask, x_BxS, 0.0)
    return jax.vmap(lambda x_S, round_S: jax.ops.segment_sum(x_S, round_S, S))(x_BxS, drawn.round)


def per_factor(c_BxS: Any, drawn: Any) -> tuple[Tally, Tally]:
    """(i) for (sample, decision): a factor is a whole answer, with the mean k of its tokens, or a decision."""
    xp, w_B = c_BxS.__array_namespace__(), drawn.weight
    length_BxS = by_answer(xp.ones_like(c_BxS), drawn)
    k_BxS = divide(by_answer(divide(c_BxS, w_B[:, None]), drawn), length_BxS)
    w_BxS = xp.where(length_BxS > 0, w_B[:, None], 0.0)
    answers = Tally(w_B * abs(k_BxS).sum(-1), w_B * k_BxS.sum(-1), w_BxS.sum(-1))
    return answers, per_token(c_BxS, drawn)[1]


def per_token(c_BxS: Any, drawn: Any) -> tuple[Tally, Tally]:
    """(ii) for (sample, decision): every token alone. (iii), the block share, is `share` of the two `absolute`."""
    xp = c_BxS.__array_namespace__()

    def tally(mask_BxS: Any) -> Tally:
        c, w = xp.where(mask_BxS, c_BxS, 0.0), xp.where(mask_BxS, drawn.weight[:, None], 0.0)
        return Tally(abs(c).sum(-1), c.sum(-1), w.sum(-1))

    return tally(drawn.sample_mask), tally(drawn.decision_mask)


def token_spread(c_BxS: jax.Array, traj: Trajectories) -> jax.Array:
    """f[]: largest difference of k between two tokens of one trajectory, relative to the largest |k| of all.

    0 if every trajectory has one coefficient on all of its tokens (docs/theory.md, T20 (a)), or none at all.
    """
    seen_BxS = traj.mask & (traj.weight > 0)[:, None]
    k_BxS = jnp.where(seen_BxS, divide(c_BxS, traj.weight[:, None]), 0.0)
    high_B = jnp.max(jnp.where(seen_BxS, k_BxS, -jnp.inf), axis=-1)
    low_B = jnp.min(jnp.where(seen_BxS, k_BxS, jnp.inf), axis=-1)
    spread = jnp.max(jnp.where(jnp.any(seen_BxS, axis=-1), high_B - low_B, 0.0))
    largest = jnp.max(jnp.abs(k_BxS))
    # Not `divide`: a coefficient that is not a number has to be seen.
    return jnp.where(largest == 0, 0.0, spread / jnp.where(largest == 0, 1.0, largest))


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
        "euclidean_share": share(dd, ss),
        "cosine": ratio(sd, jnp.sqrt(ss) * jnp.sqrt(dd)),
    }


class Attribution(struct.PyTreeNode):
    """The four conventions of docs/theory.md, which are not interchangeable, and their Euclidean twin."""

    factor_sample: jax.Array  # (i) mean |k| per answer
    factor_decision: jax.Array  # (i) mean |k| per decision
    token_sample: jax.Array  # (ii) mean |k| per sampling token
    token_decision: jax.Array  # (ii) mean |k| per decision token
    block_share: jax.Array  # (iii) decisions' part of the total |c|
    energy_sample: jax.Array  # (iv) E_s = G_s^T F_s^+ G_s
    energy_decision: jax.Array  # (iv) E_d
    share: jax.Array  # (iv) E_d / (E_s + E_d)
    norm_sample: jax.Array  # |G_s|, Euclidean in parameter space
    norm_decision: jax.Array  # |G_d|
    euclidean_share: jax.Array  # |G_d|^2 / (|G_s|^2 + |G_d|^2)
    cosine: jax.Array  # cos(G_s, G_d) in parameter space


def attribute(policy: Policy, params: Params, traj: Trajectories, objective: Objective) -> Attribution:
    """Every convention of attribution at once, for policies small enough for a P x P Fisher matrix.

    Args:
      policy: any `Policy`.
      params: its parameters, where the gradients are taken.
      traj: B trajectories with their law.
      objective: `(logp_BxS, traj) -> (sum, count)`, as of `objective(name)`.

    Raises:
      InputError: for an objective of your own that fits no law (`dsjax.objectives.law.on_law`).
    """
    logp_BxS = log_probs(policy, params, traj)
    objective = on_law(objective, logp_BxS, traj)
    gradients = component_gradients(policy, params, traj, objective)
    E_s, E_d = energies(policy, params, traj, gradients)
    c_BxS = coefficients(objective, logp_BxS, traj)
    (answer, decision), (sample, _) = per_factor(c_BxS, traj), per_token(c_BxS, traj)
    columns: dict[str, Any] = euclidean(gradients)
    return Attribution(
        factor_sample=answer.mean,
        factor_decision=decision.mean,
        token_sample=sample.mean,
        token_decision=decision.mean,
        block_share=share(jnp.sum(decision.absolute), jnp.sum(sample.absolute)),
        energy_sample=E_s,
        energy_decision=E_d,
        share=share(E_d, E_s),
        **columns,
    )


class SignalNoise(struct.PyTreeNode):
    """How loud the sampled gradient of each component is against its own noise (docs/theory.md, T14).

    Trajectory i of weight m_i (its probability, or 1/B) contributes `g_c(i) = sum over the tokens t of c of k_it
    score_it` to the gradient of component c, with `k_it = c_it / m_i` the coefficient that the objective gives the
    token. In the Fisher metric of the policy under the contexts of the data:

        signal   S_c = G_c^T F_c^+ G_c,  G_c = E[g_c]        (the energy E_c)
        moment   M_c = E[g_c^T F_c^+ g_c]
        noise    N_c = M_c - S_c                             (trace of the whitened covariance; one trajectory)

    so a batch of n independent trajectories has signal over noise `n S_c / N_c`. `S_c / M_c` lies in [0, 1] and orders
    the components the same way, whatever n.
    """

    signal_sample: jax.Array  # f[] S_s
    signal_decision: jax.Array  # f[] S_d
    moment_sample: jax.Array  # f[] M_s
    moment_decision: jax.Array  # f[] M_d

    @property
    def noise_sample(self) -> jax.Array:
        """N_s = M_s - S_s."""
        return self.moment_sample - self.signal_sample

    @property
    def noise_decision(self) -> jax.Array:
        """N_d = M_d - S_d."""
        return self.moment_decision - self.signal_decision

    @property
    def ratio_sample(self) -> jax.Array:
        """S_s / M_s in [0, 1]; NaN where no trajectory moves the component."""
        return ratio(self.signal_sample, self.moment_sample)

    @property
    def ratio_decision(self) -> jax.Array:
        """S_d / M_d in [0, 1]; NaN where no trajectory moves the component."""
        return ratio(self.signal_decision, self.moment_decision)


def trajectory_gradients(
    policy: Policy, params: Params, traj: Trajectories, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """(g_s, g_d), each f[B, P] in `ravel_pytree` order: every trajectory's own ascent direction.

    Their mean under the normalised weights is the component gradient (G_s, G_d). A trajectory of weight 0 gives 0.
    """
    flat, unravel = ravel_pytree(params)
    c_BxS = coefficients(objective, log_probs(policy, params, traj), traj)
    law_Bx1 = (traj.weight / jnp.sum(traj.weight))[:, None]
    k_BxS = divide(c_BxS, law_Bx1)
    masks = [component_mask(traj, name) for name in ("sample", "decision")]

    def surrogates(p: jax.Array) -> jax.Array:
        """f[2, B], one row a component: linear in log-probs, with the coefficients as data."""
        logp_BxS = log_probs(policy, unravel(p), traj)
        return jnp.stack([jnp.sum(jnp.where(mask, k_BxS * logp_BxS, 0.0), -1) for mask in masks])

    # Forward mode: P tangents instead of B pull-backs, and no [B, S, P] array.
    g_2xBxP = jax.jacfwd(surrogates)(flat)
    return g_2xBxP[0], g_2xBxP[1]


def whitened_squares(g_BxP: jax.Array, fisher_PxP: jax.Array) -> jax.Array:
    """f[B]: g^T F^+ g of each row; one eigendecomposition for all rows."""
    return jax.vmap(energy, in_axes=(0, None))(g_BxP, fisher_PxP)


def signal_to_noise(
    policy: Policy,
    params: Params,
    traj: Trajectories,
    objective: Objective,
    *,
    fishers: tuple[jax.Array, jax.Array] | None = None,
) -> SignalNoise:
    """S_c = G_c^T F_c^+ G_c and M_c = E[g_c^T F_c^+ g_c] of both components.

    Exact on an enumerated law, for any policy with a P x P Fisher matrix and any objective, whether it gives one
    coefficient per trajectory or one per token. Advantages are then those of an exact law: a baseline has no sampling
    noise of its own (what a finite group adds is in docs/theory.md, T14). On samples: the plug-in estimate,
    with the samples' contexts in F_c; its signal is biased upwards by N_c / B.

    Args:
      policy: with parameters `params`.
      params: where to measure.
      traj: trajectories with their law.
      objective: `(logp_BxS, traj) -> (sum, count)`.
      fishers: (F_s, F_d), each f[P, P] over the parameters, if at hand from `fisher` on the same arguments.
    """
    F = fisher(policy, params, traj) if fishers is None else fishers
    law_B = traj.weight / jnp.sum(traj.weight)
    found = []
    for g_BxP, F_c in zip(trajectory_gradients(policy, params, traj, objective), F, strict=True):
        mean_1xP = jnp.sum(law_B[:, None] * g_BxP, axis=0, keepdims=True)
        squares = whitened_squares(jnp.concatenate([mean_1xP, g_BxP]), F_c)
        found.append((squares[0], jnp.sum(law_B * squares[1:])))
    (S_s, M_s), (S_d, M_d) = found
    return SignalNoise(S_s, S_d, M_s, M_d)
