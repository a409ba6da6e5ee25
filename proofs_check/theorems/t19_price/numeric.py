"""T19: KL in the reward charges every attempt for the drift of its unread tokens, as a cost would."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from dsjax.attribution import ComponentGradients, energies, ratio
from dsjax.objectives import SumCount, own_token_kl, reinforce, trajectory_kl
from dsjax.policies import Params
from dsjax.trajectories import Trajectories
from proofs_check.filler import Drawn, Filled, Law, draw, lengthen
from proofs_check.instances import Shape
from proofs_check.numerics import ENERGY, gap
from proofs_check.requirements import MEMORYLESS, RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem
from proofs_check.theorems.t04_length_invariance.numeric import SHORT

BETA = 0.3


def attempts(traj: Trajectories) -> jax.Array:
    """f[B]: tau."""
    return 1.0 + jnp.max(jnp.where(traj.mask, traj.round, 0), axis=-1).astype(traj.reward.dtype)


def _negative_tau(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
    """REINFORCE on the payoff -tau."""
    return reinforce(logp_BxS, traj.replace(reward=-attempts(traj)))


class Setting:
    """The process as it is, and with m unread tokens after every answer."""

    def __init__(self, drawn: Drawn):
        instance, self.sizes = drawn.instance, drawn.sizes
        self.process, self.reads = instance.process, instance.process.length
        self.params, self.reference = instance.params, instance.reference
        m, Q = drawn.sizes.filler, self.process.num_prompts
        own, other = (jnp.broadcast_to(x, (Q, m, x.size)) for x in drawn.filler)
        self.filler = own, other
        log_f, log_ref = (jax.nn.log_softmax(x[0, 0]) for x in self.filler)
        drift, law = log_f - log_ref, jnp.exp(log_f)
        self.kappa = jnp.sum(law * drift)
        self.drift_variance = jnp.sum(law * drift**2) - self.kappa**2
        self.price = BETA * m * self.kappa
        self.short = Law(self.process, instance.policy, self.params, self.reference)
        self.long = self.lengthened(self.params, self.reference)

    def lengthened(self, params: Params, reference: Params) -> Law:
        """With the unread tokens."""
        own, other = self.filler
        process, policy, params = lengthen(self.process, params, own, self.reads)
        return Law(process, policy, params, lengthen(self.process, reference, other, self.reads)[2])

    def priced(self, price: jax.Array) -> Law:
        """Without the unread tokens, at another cost."""
        process = self.process.replace(cost=self.process.cost + price)
        return Law(process, self.short.policy, self.params, self.reference)

    def others(self, gradients: ComponentGradients) -> tuple[Params, Params]:
        """(G_s, G_d) in the parameters that both processes have."""
        return gradients.sample["sample"][:, : self.reads], gradients.decision["decision"]

    def with_kl(self, law: Law) -> tuple[Params, Params]:
        """Gradients of J - beta KL, KL in the reward."""
        return self.others(law.gradients(partial(reinforce, reward_kl=BETA)))


THEOREM = Theorem(
    STATEMENTS["T19"],
    shapes=(
        Filled(Shape(rounds=3, length=1, vocabulary=2, prompts=2, history="none", graded=True, cost=True), filler=1),
        Filled(Shape(rounds=2, length=2, vocabulary=2, prompts=2, history="none"), filler=2),
        Filled(Shape(rounds=2, length=4, vocabulary=2, history="none", cost=True), filler=1),
        Filled(Shape(rounds=4, length=1, vocabulary=2, history="none"), filler=1),
    ),
    draw=draw,
    prepare=Setting,
    requires=(MEMORYLESS, RESAMPLES, SHORT),
    on_process=lambda theorem, shape, process: (Filled(shape, 1),),
)
everywhere = THEOREM.on()

everywhere.equation(
    "KL_m = KL_0 + m kappa E[tau]",
    lambda s: gap(s.long.kl(), s.short.kl() + s.sizes.filler * s.kappa * s.short.mean(attempts(s.short.traj))),
)
everywhere.equation(
    "J_c - beta KL_m = J_(c + beta m kappa) - beta KL_0 - beta m kappa",
    lambda s: gap(
        s.long.mean(s.long.traj.reward) - BETA * s.long.kl(),
        s.priced(s.price).mean(s.priced(s.price).traj.reward) - BETA * s.short.kl() - s.price,
    ),
)
price = everywhere.equation(
    "its gradient in all other parameters: that of J_(c + beta m kappa) - beta KL_0",
    lambda s: gap(s.with_kl(s.long), s.with_kl(s.priced(s.price))),
)


@everywhere.equation("grad KL_m = grad KL_0 + m kappa grad E[tau]")
def _alone(s: Setting) -> jax.Array:
    KL_0, tau = (s.others(s.short.gradients(f)) for f in (trajectory_kl, _negative_tau))
    stated = jax.tree.map(lambda x, y: x + s.sizes.filler * s.kappa * y, KL_0, tau)
    return gap(s.others(s.long.gradients(trajectory_kl)), stated)


@everywhere.equation("share of the KL: energies of grad KL_0 + m kappa grad E[tau], and of filler", tolerance=ENERGY)
def _share(s: Setting) -> jax.Array:
    m, law = s.sizes.filler, s.short
    KL_0, tau = (law.gradients(f) for f in (trajectory_kl, _negative_tau))
    both = ComponentGradients(
        *(jax.tree.map(lambda x, y: x + m * s.kappa * y, a, b) for a, b in zip(_parts(KL_0), _parts(tau), strict=True)),
        loss=KL_0.loss,
    )
    E_s, E_d = energies(law.policy, law.params, law.traj, both)
    filler = m * law.mean(attempts(law.traj)) * s.drift_variance
    found_s, found_d = energies(s.long.policy, s.long.params, s.long.traj, s.long.gradients(trajectory_kl))
    return gap(ratio(found_d, found_s + found_d), ratio(E_d, E_s + filler + E_d))


def _parts(gradients: ComponentGradients) -> tuple[Params, Params]:
    return gradients.sample, gradients.decision


@everywhere.inequality("all else at its reference, beta m kappa = 1 - c: no push to RESAMPLE")
def _no_push(s: Setting) -> jax.Array:
    law = s.lengthened(s.params, s.params)
    beta = jnp.maximum(1.0 - s.process.cost, 0.0) / (s.sizes.filler * s.kappa)
    return jnp.min(law.gradients(partial(reinforce, reward_kl=beta)).decision["decision"][..., 0])


everywhere.control("the price left out", price, lambda s: gap(s.with_kl(s.long), s.with_kl(s.short)))
everywhere.control(
    "the price of one token more",
    price,
    lambda s: gap(s.with_kl(s.long), s.with_kl(s.priced(s.price + BETA * s.kappa))),
)


@everywhere.control("own-token KL said to carry the price", price)
def _own(s: Setting) -> jax.Array:
    def penalised(logp_BxS: jax.Array, traj: Trajectories) -> SumCount:
        total, count = reinforce(logp_BxS, traj)
        return total + BETA * own_token_kl(logp_BxS, traj)[0], count

    return gap(s.others(s.long.gradients(penalised)), s.others(s.priced(s.price).gradients(penalised)))
