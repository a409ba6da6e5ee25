"""T17: a mixture of chains and guesses, which imitation leaves as it is and reward turns into chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.attribution import component_gradients
from dsjax.evaluation import mixture
from dsjax.objectives import Objective, reinforce, rft, sft
from dsjax.policies import History, Params, Policy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories
from proofs_check import instances
from proofs_check.extremes import EXTREMES, SHARPNESS, Spared
from proofs_check.instances import Shape
from proofs_check.numerics import gap
from proofs_check.requirements import Requirement
from proofs_check.statement import STATEMENTS
from proofs_check.theorem import Theorem

NEVER = -40.0  # nats, for what has probability 0: exp(-40) is far below rounding


@dataclass(frozen=True)
class Chain:
    """What is static: sums of d symbols mod m, with a decision after the last step or a forced stop."""

    modulus: int  # m
    steps: int  # d
    forced: bool = False  # T = d instead of d + 1

    @property
    def rounds(self) -> int:
        """T."""
        return self.steps + (not self.forced)

    @property
    def base(self) -> Shape:
        """The plain shape of the process."""
        return Shape(self.rounds, 1, self.modulus, self.modulus**self.steps)

    def symbols(self) -> np.ndarray:
        """i[Q, d]: the symbols of every prompt."""
        grid = np.meshgrid(*[np.arange(self.modulus)] * self.steps, indexing="ij")
        return np.stack([x.ravel() for x in grid], axis=-1)

    def prefixes(self) -> np.ndarray:
        """i4[Q, T], as tokens are: sums of the first t symbols mod m; of all of them after the last."""
        sums = (np.cumsum(self.symbols(), axis=1) % self.modulus).astype(np.int32)
        return sums[:, np.minimum(np.arange(self.rounds), self.steps - 1)]

    def process(self) -> DecisionSamplingProcess:
        """All problems, equally likely."""
        last = self.prefixes()[:, -1]
        return DecisionSamplingProcess.create(
            prompt_law=jnp.full(len(last), 1.0 / len(last)),
            reward_table=jnp.asarray(np.eye(self.modulus)[last]),
            vocabulary=self.modulus,
            length=1,
            rounds=self.rounds,
            history="full",
        )

    def __str__(self) -> str:
        return f"{self.steps} steps mod {self.modulus}, T={self.rounds}"


def _log(p: jax.Array) -> jax.Array:
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), NEVER)


class Mixture(Policy):
    """Takes the chain with probability p = sigmoid(theta), else guesses and stops; params: f[] theta."""

    sizes: Chain = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False, default=1)
    history: History = struct.field(pytree_node=False, default="full")

    def init(self, key: jax.Array) -> Params:
        """Standard normal theta."""
        return jax.random.normal(key, ())

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        m, d, K = self.sizes.modulus, self.sizes.steps, answers_BxKxL.shape[1]
        p, s = jax.nn.sigmoid(params), 1.0 / m
        prefix_BxK = jnp.asarray(self.sizes.prefixes())[prompt_BxP[:, 0], :K]
        chain_BxKxm = jax.nn.one_hot(prefix_BxK, m, dtype=p.dtype)
        first = (jnp.arange(K) == 0)[None, :]
        sample = jnp.where(first[..., None], p * chain_BxKxm + (1 - p) * s, chain_BxKxm)
        # Who has left the prefixes has guessed; who is on them at the last step is done.
        on_BxK = answers_BxKxL[..., 0] == prefix_BxK
        undecided = mixture.stop_at_prefix(p, s) if d > 1 else jnp.ones_like(p)
        stop = jnp.where(on_BxK & (jnp.arange(K) < d - 1)[None, :], jnp.where(first, undecided, 0.0), 1.0)
        return _log(sample)[:, :, None], _log(jnp.stack([stop, 1.0 - stop], -1))


class Drawn(struct.PyTreeNode):
    """A chain and the logit of p."""

    theta: jax.Array
    sizes: Chain = struct.field(pytree_node=False)


def draw(key: jax.Array, sizes: Chain, process: Any = None) -> Drawn:
    """A random p."""
    del process
    return Drawn(instances.normal(key), sizes)


def extreme(drawn: Drawn, number: Any, names: tuple[str, ...]) -> Drawn:
    """A chain that is taken nearly always or hardly ever."""
    return drawn.replace(theta=jnp.where(number == names.index("sharp"), SHARPNESS, 1.0) * drawn.theta)


class Setting:
    """All trajectories under the mixture."""

    def __init__(self, drawn: Drawn):
        self.sizes, self.theta = drawn.sizes, drawn.theta
        self.p, self.s = jax.nn.sigmoid(drawn.theta), 1.0 / drawn.sizes.modulus
        self.policy, self.process = Mixture(drawn.sizes), drawn.sizes.process()
        self.traj = self.law(self.theta)
        self.J = jnp.sum(self.traj.weight * self.traj.reward)
        better = mixture.after_success(self.p, self.s)
        self.better = jnp.log(better) - jnp.log1p(-better)

    def law(self, theta: jax.Array) -> Trajectories:
        """All trajectories with their probability at a theta."""
        return self.process.enumerate_trajectories(self.policy, theta, static=True)

    def gradient(self, objective: Objective, theta: jax.Array, law: Trajectories | None = None) -> jax.Array:
        """d/dtheta of an objective at a theta, on the mixture's own trajectories or on those of another law."""
        traj = self.traj if law is None else law
        traj = traj.replace(old_logp=log_probs(self.policy, theta, traj))
        return component_gradients(self.policy, theta, traj, objective).total

    def mixed(self) -> jax.Array:
        """f[B]: p x (the chain) + (1 - p) x (a uniform guess, then STOP), prompt law included."""
        sizes, Q, m = self.sizes, self.process.num_prompts, self.sizes.modulus
        prefix = sizes.prefixes()
        blocks = []
        for t in range(sizes.rounds):
            block = np.zeros((Q, m**t, m))
            chain = np.zeros_like(block)
            if t == 0:
                block[:] = 1.0 / m
            if t == sizes.steps - 1:
                history = sum(prefix[:, j] * m ** (t - 1 - j) for j in range(t)) if t else np.zeros(Q, int)
                chain[np.arange(Q), history, prefix[:, t]] = 1.0
            blocks.append((self.p * chain + (1 - self.p) * block) / Q)
        return self.process.join(tuple(blocks))

    def stops_at_prefix(self) -> jax.Array:
        """P(STOP | the first answer is the first symbol), from the law of trajectories."""
        traj = self.traj
        first = traj.tokens[:, 0] == jnp.asarray(self.sizes.prefixes())[traj.prompt[:, 0], 0]
        one = jnp.sum(traj.mask & (traj.round > 0), -1) == 0
        return jnp.sum(traj.weight, where=first & one) / jnp.sum(traj.weight, where=first)


OWN_CHAIN = Requirement("to be the chain itself, which is fixed", lambda process: False)

THEOREM = Theorem(
    STATEMENTS["T17"],
    shapes=(Chain(2, 3), Chain(3, 2), Chain(5, 2), Chain(2, 4, forced=True), Chain(2, 2)),
    draw=draw,
    extreme=extreme,
    spared=tuple(
        Spared(name, "the process is fixed, the policy has one parameter") for name in EXTREMES if name != "sharp"
    ),
    prepare=Setting,
    requires=(OWN_CHAIN,),
)
everywhere = THEOREM.on()

everywhere.equation("the policy's law = p x chain + (1-p) x guess", lambda s: gap(s.traj.weight, s.mixed()))
everywhere.equation("accuracy = p + (1-p) s", lambda s: gap(s.J, mixture.accuracy(s.p, s.s)))
still = everywhere.equation("imitating own trajectories: no gradient at p", lambda s: jnp.abs(s.gradient(sft, s.theta)))
multiplied = everywhere.equation(
    "imitating own successes: no gradient at p/(p + (1-p)s)", lambda s: jnp.abs(s.gradient(rft, s.better))
)
stops = everywhere.equation(
    "P(STOP | prefix) = (1-p)s/(p + (1-p)s)",
    lambda s: gap(s.stops_at_prefix(), mixture.stop_at_prefix(s.p, s.s)),
)
reward = everywhere.equation(
    "reward: gradient p (1-p)(1 - s) on the logit of p",
    lambda s: gap(s.gradient(reinforce, s.theta), mixture.reward_gradient(s.p, s.s)),
)


@everywhere.equation("greedy decoding goes on at the prefix iff p > s/(1 + s)")
def _greedy(s: Setting) -> jax.Array:
    return jnp.abs(jnp.sign(0.5 - s.stops_at_prefix()) - jnp.sign(s.p - mixture.greedy_threshold(s.s)))


everywhere.control("successes said to leave p", multiplied, lambda s: jnp.abs(s.gradient(rft, s.theta)))
everywhere.control("own trajectories said to multiply the odds", still, lambda s: jnp.abs(s.gradient(sft, s.better)))
everywhere.control("P(STOP | prefix) said to be 1 - p", stops, lambda s: gap(s.stops_at_prefix(), 1 - s.p))
everywhere.control("reward said to leave p", reward, lambda s: jnp.abs(s.gradient(reinforce, s.theta)))
