"""T24: what flipped labels, a discount and stale trajectories do to the gradient, and to that of STOP above all."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.attribution import ComponentGradients, coefficients, fisher
from dsjax.numerics import divide
from dsjax.objectives import Objective, cispo, gspo, reinforce, rloo_clipped, surrogate
from dsjax.trajectories import STOP, Trajectories
from proofs_check import instances
from proofs_check.closed_forms import by_context, by_decider
from proofs_check.coefficients import energies_of, gradients_of
from proofs_check.extremes import Spared, without_pushes
from proofs_check.instances import Instance, Numbers, Shape, draw_with_free_decider
from proofs_check.numerics import ENERGY, gap, shortfall
from proofs_check.requirements import RESAMPLES
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem, always
from proofs_check.theorems.t12_grpo.numeric import GROUP, factor
from proofs_check.theorems.t12_grpo.numeric import summed as group_normalised

GAMMA = 0.8
MISLED = 0.97  # e0 of one wrong answer for each prompt; right ones have a label "right" with at most 1 - LEAST
LEAST, SPREAD = 0.05, 0.4  # other flips are uniform in [LEAST, LEAST + SPREAD]
FEW = 3  # answers up to which energies are measured

discounted = partial(reinforce, baseline="returns_to_go", discount=GAMMA)
by_token = partial(surrogate, ratio="token")
by_sequence = partial(surrogate, ratio="sequence", aggregation="sequence_mean")  # its mean over tokens is itself
SEQUENCE_RULES: dict[str, Objective] = {
    "no clip": by_sequence,
    "clip": rloo_clipped,
    "truncated": partial(by_sequence, clip_rule="cispo"),
    "clip, geometric mean": partial(gspo, advantage="none"),
}
TRUNCATED_TOKENS: Objective = partial(cispo, advantage="none")
MASKED_TOKENS: Objective = partial(surrogate, ratio="token", clip_rule="ppo")


class Setting(instances.Setting):
    """Gradients of all objectives, in one pull-back, under the policy, with labels, and under an older policy.

    Laws of labels are f[Q, A]: P("right" | answer). `even` does not depend on the answer beyond the verifier, `uneven`
    does, and calls one wrong answer of each prompt right more often than any right one.
    """

    def __init__(self, instance: Instance):
        super().__init__(instance)
        process, r = self.process, self.process.reward_table
        numbers = Numbers(instance.key, 0, 2 + 2 * r.size)
        e0, e1 = LEAST + SPREAD * numbers.uniform(2)
        self.k = 1.0 - e0 - e1
        self.even = e0 + self.k * r
        self.e0, self.e1 = LEAST + SPREAD * numbers.uniform(2, *r.shape)
        misled = jnp.arange(r.shape[-1])[None] == jnp.argmin(r, -1, keepdims=True)
        self.e0 = jnp.where(misled, MISLED, self.e0)
        self.uneven = (1.0 - r) * self.e0 + r * (1.0 - self.e1)

        self.old = process.enumerate_trajectories(self.policy, instance.reference, static=True)
        assert self.old.old_logp is not None
        tables = process.tables(self.old.old_logp)
        self.old_values, self.old_visits = process.values(tables, self.returns), process.visitation(tables).answer
        self.visits = self.visitation.answer
        self.stop = jnp.exp(by_decider(process, self.tables.log_stop))
        self.slope = self.stop * (1.0 - self.stop)

        found = self._coefficients()
        self.rows = {name: i for i, name in enumerate(found)}
        self.gradients = gradients_of(self.policy, self.params, self.traj, jnp.stack(list(found.values())))

    def _coefficients(self) -> dict[str, jax.Array]:
        """c f[B, S] of every objective."""
        at, k = partial(coefficients, logp_BxS=self.logp), self.k
        found = {
            "clean": at(reinforce, traj=self.traj),
            "flipped": self.labelled(reinforce, self.even),
            "dearer": at(reinforce, traj=self.traj.replace(reward=self.paid(self.process.reward_table, 1.0 / k))),
            "misled": self.labelled(reinforce, self.uneven),
            "discounted": at(discounted, traj=self.traj),
            "by token": at(by_token, traj=self.old),
            "by sequence": at(by_sequence, traj=self.old),
        }
        if _success(self.shape):
            found["GRPO, flipped"] = self.labelled(group_normalised, self.even)
            # Success rates p and p~.
            V = self.values.V[0][:, 0], self.process.values(self.tables, self.paid(self.even)).V[0][:, 0]
            for name, rate in zip(("GRPO at p", "GRPO at p~"), V, strict=True):
                scale = factor(rate, GROUP)[self.traj.prompt[:, 0]]
                found[name] = at(reinforce, traj=self.traj.replace(reward=scale * self.traj.reward))
        return found

    def paid(self, table_QxA: jax.Array, price: jax.Array | float = 1.0) -> jax.Array:
        """f[B]: table(q, y_tau) - price c (tau - 1)."""
        process = self.process
        Q, A = process.num_prompts, process.num_answers
        blocks = [table_QxA[:, None] - price * process.cost * t for t in range(process.rounds)]
        return process.join(tuple(jnp.broadcast_to(x, (Q, A**t, A)) for t, x in enumerate(blocks)))

    def labelled(self, objective: Objective, law_QxA: jax.Array) -> jax.Array:
        """c f[B, S] of an objective on the law of (trajectory, label), added up over the labels."""
        label = jnp.ones_like(law_QxA), jnp.zeros_like(law_QxA)
        law = self.paid(law_QxA, 0.0)
        both: Trajectories = jax.tree.map(lambda x: jnp.concatenate([x, x]), self.traj)
        weight = jnp.concatenate([self.traj.weight * law, self.traj.weight * (1.0 - law)])
        both = both.replace(weight=weight, reward=jnp.concatenate([self.paid(x) for x in label]))
        c = coefficients(objective, jnp.concatenate([self.logp, self.logp]), both)
        return c[: len(law)] + c[len(law) :]

    def gradient(self, name: str) -> ComponentGradients:
        """Component gradients of an objective."""
        return jax.tree.map(lambda x: x[self.rows[name]], self.gradients)

    def apart(self, name: str, other: str, times: jax.Array | float = 1.0) -> jax.Array:
        """How far an objective's gradient is from a multiple of another's, in both components."""
        x, y = self.gradient(name), self.gradient(other)
        stated = jax.tree.map(lambda g: times * g, (y.sample, y.decision))
        return gap((x.sample, x.decision), stated)

    def up(self, name: str) -> jax.Array:
        """f[Q, H_d, A]: an objective's gradient on the STOP logits."""
        return self.gradient(name).decision["decision"][..., STOP]

    def stated(
        self,
        going_on: tuple[jax.Array, ...],
        payoff_B: jax.Array | None = None,
        visits: tuple[jax.Array, ...] | None = None,
    ) -> jax.Array:
        """f[Q, H_d, A]: sum over the visits of a STOP logit of rho pi_stop pi_res (payoff - value of going on).

        Args:
          going_on: value of going on by round, costs paid included, shaped [Q, A^t x A].
          payoff_B: of a trajectory; by default its return.
          visits: by default those of the policy.
        """
        payoff = self.process.split(self.returns if payoff_B is None else payoff_B)
        rho = self.visits if visits is None else visits
        pushes = [rho[t] * (payoff[t] - V.reshape(rho[t].shape)) for t, V in enumerate(going_on)]
        return self.slope * by_context(self.process, pushes)

    def labels_ahead(self) -> tuple[jax.Array, ...]:
        """V~ by round: of going on, counted in labels."""
        return self.process.values(self.tables, self.paid(self.uneven)).V[1:]

    def flips(self) -> tuple[jax.Array, jax.Array]:
        """(measured, stated), bool[Q, H_d, A]: where the push on STOP has not T8's sign."""
        up, right = self.up("misled"), self.process.reward_table[:, None] > 0.5
        visits = by_context(self.process, list(self.visits[:-1]))
        mass = [rho * V.reshape(rho.shape) for rho, V in zip(self.visits, self.labels_ahead(), strict=False)]
        V = divide(by_context(self.process, mass), visits)
        stated = jnp.where(right, 1.0 - self.e1[:, None] < V, self.e0[:, None] > V)
        return jnp.where(right, up < 0, up > 0) & (visits > 0), stated & (visits > 0)

    def discounted_ahead(self, last: int = 0) -> tuple[jax.Array, ...]:
        """D by round; `last`: further tokens of the forced stop."""
        R, L, tables = self.process.split(self.returns), self.process.length, self.tables
        D: list[jax.Array] = []
        for t in reversed(range(1, self.process.rounds)):
            if not D:
                U, tokens = R[t], L + last
            else:
                later = D[0].reshape(R[t].shape)
                U = jnp.exp(tables.log_stop[t]) * R[t] + jnp.exp(tables.log_resample[t]) * later
                tokens = L + 1
            D.insert(0, GAMMA**tokens * jnp.sum(jnp.exp(tables.log_sample[t]) * U, -1))
        return tuple(D)

    def spared(self) -> jax.Array:
        """Slack of "times gamma^L at most at wrong answers, not smaller at right ones"."""
        clean, new = self.up("clean"), self.up("discounted")
        return new - jnp.where(self.process.reward_table[:, None] > 0.5, 1.0, GAMMA**self.process.length) * clean

    def starved(self) -> jax.Array:
        """Slack of "times gamma^L at most" at right answers."""
        clean, new = self.up("clean"), self.up("discounted")
        slack = GAMMA**self.process.length * clean - new
        return jnp.where(self.process.reward_table[:, None] > 0.5, slack, 0.0)

    def last_answers(self, name: str) -> jax.Array:
        """f[Q, A^(T-1), C, V]: gradient on the sampler's logits of round T."""
        process = self.process
        return self.gradient(name).sample["sample"][:, -(process.num_answers ** (process.rounds - 1)) :]

    def unbalanced(self, objective: Objective) -> jax.Array:
        """How far the coefficients of a trajectory's tokens are from one number, on the older policy's law."""
        mask, old = self.traj.mask, self.old
        k_BxS = divide(coefficients(objective, self.logp, old), old.weight[:, None])
        mean_Bx1 = divide(jnp.sum(k_BxS, -1), self.traj.num_tokens)[:, None]
        return gap(k_BxS, jnp.where(mask, mean_Bx1, 0.0))


def _success(shape: Shape) -> bool:
    """Returns are 0 and 1."""
    return not shape.graded and not shape.cost


def _rounds(shape: Shape) -> bool:
    """The sampler has tables of its own in round T."""
    return shape.saturated and shape.history == "full"


def _network(shape: Shape) -> bool:
    return shape.network


TURNED = "flips by answer: T8's sign turns iff e0(y) > V~ (wrong), 1 - e1(y) < V~ (right)"
STALE = "token ratios: STOP logit = sum over visits of rho_old pi_stop pi_res (r - V_old + c)"
EXACT = "sequence ratios: exactly grad J of the new policy"

THEOREM = Theorem(
    STATEMENTS["T24"],
    shapes=(
        Shape(rounds=3, length=1, vocabulary=2, prompts=2),
        Shape(rounds=3, length=2, vocabulary=2, prompts=2, history="none", graded=True, cost=True),
        Shape(rounds=4, length=1, vocabulary=3, history="none"),
        Shape(rounds=2, length=4, vocabulary=2),
        Shape(rounds=2, length=1, vocabulary=5, prompts=2, history="none", graded=True, network=True),
        Shape(rounds=2, length=5, vocabulary=2, history="none", graded=True, shared=4),
    ),
    draw=draw_with_free_decider,
    prepare=Setting,
    requires=(RESAMPLES,),
    spared=(
        without_pushes(TURNED),
        Spared("sharp", "heads x 8 bring ratios over exp(20), where the library cuts them", (STALE, EXACT), _network),
    ),
    telling=lambda shape: not shape.network,
)
everywhere, success = THEOREM.on(), THEOREM.on(_success)
priced = THEOREM.on(lambda shape: shape.cost)
few = THEOREM.on(lambda shape: _success(shape) and shape.saturated and shape.vocabulary**shape.length <= FEW)
last_round = THEOREM.on(_rounds)

flipped = everywhere.equation(
    "flips: gradient = (1 - e0 - e1) times that at the price c/(1 - e0 - e1)",
    lambda s: s.apart("flipped", "dearer", s.k),
)


@few.equation("flips, c = 0: both energies times (1 - e0 - e1)^2, so the share is the same", tolerance=ENERGY)
def _energies(s: Setting) -> jax.Array:
    both = jax.tree.map(lambda x: x[np.array([s.rows["clean"], s.rows["flipped"]])], s.gradients)
    clean, flipped = energies_of(both, fisher(s.policy, s.params, s.traj))
    return gap(flipped, jax.tree.map(lambda E: s.k**2 * E, clean))


grpo_factor = success.equation(
    "flips, GRPO: gradient = (1 - e0 - e1) sum_q mu(q) c_G(p~_q) grad p_q",
    lambda s: s.apart("GRPO, flipped", "GRPO at p~", s.k),
)
misled = everywhere.equation(
    "flips by answer: STOP logit = sum over visits of rho pi_stop pi_res (r~ - V~ + c)",
    lambda s: gap(s.up("misled"), s.stated(s.labels_ahead(), s.paid(s.uneven))),
)


@success.equation(TURNED, tolerance=0.0)
def turned(s: Setting) -> jax.Array:
    """Number of STOP logits of which this is not so."""
    measured, stated = s.flips()
    return jnp.sum(measured != stated).astype(s.logp.dtype)


threshold = everywhere.equation(
    "discount: STOP logit = sum over visits of rho pi_stop pi_res (R - D), gamma^(L+1) a round, gamma^L before the end",
    lambda s: gap(s.up("discounted"), s.stated(s.discounted_ahead())),
)
spared = success.inequality(
    "discount: pushes at wrong answers times gamma^L at most, none smaller at right answers",
    lambda s: jnp.min(s.spared()),
    tight=always,  # the decision before the forced stop: exactly gamma^L
)


@last_round.equation("discount: gradient on token j of round T times gamma^(L-j)")
def _tokens(s: Setting) -> jax.Array:
    V, L = s.process.vocabulary, s.process.length
    by_prefix = np.concatenate([np.full(V**j, GAMMA ** (L - 1 - j)) for j in range(L)])
    return gap(s.last_answers("discounted"), by_prefix[None, None, :, None] * s.last_answers("clean"))


stale = everywhere.equation(
    STALE,
    lambda s: gap(s.up("by token"), s.stated(s.old_values.V[1:], visits=s.old_visits)),
)


@everywhere.equation("visits of a decision = old ones times the ratios on the way: L of them in round 1")
def _lag(s: Setting) -> jax.Array:
    assert s.old.old_logp is not None
    process, log_ratio = s.process, jnp.where(s.traj.mask, s.logp - s.old.old_logp, 0.0)
    found, stated = [], []
    for t in range(process.rounds - 1):
        before = log_ratio[:, : t * (process.length + 1) + process.length]
        found.append(s.visits[t])
        stated.append(s.old_visits[t] * jnp.exp(process.split(jnp.sum(before, -1))[t]))
    return gap(found, stated)


exact = everywhere.equation(EXACT, lambda s: s.apart("by sequence", "clean"))
balanced = everywhere.equation(
    "sequence rules, clipped, truncated or not: one coefficient on all tokens of a trajectory",
    lambda s: jnp.max(jnp.stack([s.unbalanced(f) for f in SEQUENCE_RULES.values()])),
)

everywhere.control("the factor 1 - e0 - e1 left out", flipped, lambda s: s.apart("flipped", "dearer"))
priced.control("the price said to stay c", flipped, lambda s: s.apart("flipped", "clean", s.k))
success.control("GRPO's factor at p", grpo_factor, lambda s: s.apart("GRPO, flipped", "GRPO at p", s.k))
everywhere.control("V for V~", misled, lambda s: gap(s.up("misled"), s.stated(s.values.V[1:], s.paid(s.uneven))))
success.control("T8's sign whatever the flips", turned, lambda s: jnp.sum(s.flips()[0]).astype(s.logp.dtype))
everywhere.control("undiscounted values", threshold, lambda s: gap(s.up("discounted"), s.stated(s.values.V[1:])))
everywhere.control(
    "gamma^(L+1) before the forced stop too",
    threshold,
    lambda s: gap(s.up("discounted"), s.stated(s.discounted_ahead(last=1))),
)
success.control("a discount said to shrink pushes at right answers", spared, lambda s: shortfall(jnp.min(s.starved())))
everywhere.control("the new policy's visits", stale, lambda s: gap(s.up("by token"), s.stated(s.old_values.V[1:])))
everywhere.control(
    "the new policy's values", stale, lambda s: gap(s.up("by token"), s.stated(s.values.V[1:], visits=s.old_visits))
)
everywhere.control("token ratios said to give grad J", exact, lambda s: s.apart("by token", "clean"))
everywhere.control("truncated token weights", balanced, lambda s: s.unbalanced(TRUNCATED_TOKENS))
everywhere.control("masked token weights", balanced, lambda s: s.unbalanced(MASKED_TOKENS))
