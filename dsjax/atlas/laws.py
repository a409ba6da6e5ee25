"""Exact expected gradients for answers of any length, without enumerating V^L of them.

One scenario for all lengths: two symbols, two rounds, memoryless. Verifier and decider read the first token of an
answer; the other L - 1 tokens ("filler") are drawn independently with the same probabilities at every position. Then

- all filler positions have the same expected gradient, so one of them, the *probe*, is followed token by token;
- everything else that an objective can see of the other L - 2 filler tokens is how many of them show symbol 1, a
  binomial count. It is replaced by the nodes of a Gauss rule of its law: exact for objectives that depend on the count
  through a polynomial of degree < 2 m (all objectives of this library but the preference losses, whose dependence is
  smooth), and for any dependence if L - 2 < m.

At a node all other filler tokens carry the same log-probability, the mean for that count. So an objective that treats
tokens one by one in a non-linear way *and* couples them is not exact here; `enumerate_at` gives the truth for small L,
and the atlas shows the difference next to every row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsjax.numerics import compile_quickly
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import Trajectories

NODES = 4
ROUNDS = 2
VOCABULARY = 2


class Laws(NamedTuple):
    """Logits of a position-wise policy that reads first tokens; float64."""

    first: np.ndarray  # f[Q, 2] of the first token
    filler: np.ndarray  # f[2] of every other token
    decision: np.ndarray  # f[Q, 2, 2] of STOP, RESAMPLE after each first token


class Behaviour(NamedTuple):
    """Probabilities of what is shown to the objective: the policy's own, or those of demonstrations (may be 0)."""

    first: np.ndarray  # f[K, Q, 2] of the first token, by round
    filler: np.ndarray  # f[2]
    decision: np.ndarray  # f[Q, 2, 2]


@dataclass(frozen=True)
class Scenario:
    """A process at every length, with policy, reference and demonstrations. Arrays are NumPy float64."""

    prompt_law: np.ndarray  # f[Q]
    reward: np.ndarray  # f[Q, 2] r(q, first token)
    cost: float
    policy: Laws
    reference: Laws
    demonstrator: Behaviour

    @property
    def num_prompts(self) -> int:
        """Q."""
        return len(self.prompt_law)

    @property
    def binary(self) -> bool:
        """Whether the verifier says right or wrong only."""
        return bool(np.isin(self.reward, (0.0, 1.0)).all())


def standard_scenario(graded: bool = False) -> Scenario:
    """Three prompts of different difficulty; drift to the reference and mismatch to demonstrations at every token.

    Demonstrations are wrong at first in 40 % of the cases, then RESAMPLE and a right answer; a right answer gets STOP.
    """
    right = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    reward = np.array([[0.9, 0.2], [0.1, 0.7], [0.6, 0.3]]) if graded else right
    policy = Laws(
        np.array([[0.8, 0.0], [0.9, 0.0], [0.1, 0.0]]),
        np.array([0.6, 0.0]),
        np.array([[[1.0, 0.0], [-0.4, 0.0]], [[0.3, 0.0], [0.2, 0.0]], [[0.6, 0.0], [-0.7, 0.0]]]),
    )
    reference = Laws(
        np.array([[0.2, 0.0], [0.3, 0.0], [-0.5, 0.0]]), np.zeros(2), policy.decision - np.array([0.6, 0.0])
    )
    first = np.stack([0.6 * right + 0.4 * (1 - right), right])
    decide = np.stack([right, 1 - right], axis=-1)
    return Scenario(
        np.array([0.5, 0.3, 0.2]), reward, 0.0, policy, reference, Behaviour(first, np.full(2, 0.5), decide)
    )


def generic_scenario() -> Scenario:
    """The standard one with demonstrations whose filler is not uniform: on uniform filler DFT's gradient is zero."""
    standard = standard_scenario()
    return replace(standard, demonstrator=standard.demonstrator._replace(filler=np.array([0.3, 0.7])))


def gauss_binomial(trials: int, p: float, nodes: int = NODES) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, weights) of a rule for Bin(trials, p), exact for polynomials of degree < 2 `nodes`.

    Golub-Welsch on the recurrence of the Krawtchouk polynomials. With trials < `nodes` it is the law itself, padded
    with weights 0.
    """
    if trials < nodes:
        weights = np.array([1.0])
        for _ in range(trials):
            weights = np.convolve(weights, [1 - p, p])
        pad = nodes - trials - 1
        return np.pad(np.arange(trials + 1.0), (0, pad)), np.pad(weights, (0, pad))
    k = np.arange(nodes)
    diagonal = p * (trials - k) + k * (1 - p)
    beside = np.sqrt(p * (1 - p) * k[1:] * (trials - k[1:] + 1))
    at, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return at, vectors[0] ** 2


class Structure(struct.PyTreeNode):
    """The trajectories of one length, by what can be told apart; [B, K] arrays, K = 2 rounds."""

    prompt: jax.Array  # i32[B]
    first: jax.Array  # i32[B, K]
    probe: jax.Array  # i32[B, K]
    count: jax.Array  # f[B, K] how many of the other L - 2 filler tokens show symbol 1
    stop_round: jax.Array  # i32[B] 0 or 1
    weight: jax.Array  # f[B]
    length: jax.Array  # i32[] L

    @property
    def used(self) -> jax.Array:
        """bool[B, K]: rounds that take place."""
        return jnp.arange(ROUNDS, dtype=jnp.int32)[None] <= self.stop_round[:, None]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def on_policy(scenario: Scenario) -> Behaviour:
    """The policy's own probabilities."""
    laws = scenario.policy
    first = _softmax(laws.first)
    return Behaviour(np.stack([first] * ROUNDS), _softmax(laws.filler), _softmax(laws.decision))


def structure(scenario: Scenario, law: Behaviour, length: int, nodes: int = NODES) -> Structure:
    """Every class of trajectories of that length with its probability under a law.

    The number of classes is that of `NODES` nodes; fewer are padded with probability 0.
    """
    rule = gauss_binomial(max(length - 2, 0), float(law.filler[1]), nodes)
    at, rule = (np.pad(x, (0, NODES - nodes)) for x in rule)
    C = 4 * len(at)
    y, z, k = (x.reshape(-1) for x in np.meshgrid(*(np.arange(n) for n in (2, 2, len(at))), indexing="ij"))
    inside = np.asarray(law.filler)[z] * rule[k]  # f[C] probability of probe and count
    Q = scenario.num_prompts
    q1, c1 = (x.reshape(-1) for x in np.meshgrid(np.arange(Q), np.arange(C), indexing="ij"))
    q2, d1, d2 = (x.reshape(-1) for x in np.meshgrid(np.arange(Q), np.arange(C), np.arange(C), indexing="ij"))
    prompt = np.concatenate([q1, q2])
    one = np.concatenate([c1, d1])
    two = np.concatenate([np.zeros_like(c1), d2])
    stop = np.concatenate([np.zeros_like(q1), np.ones_like(q2)])
    start = (
        scenario.prompt_law[prompt] * law.first[0][prompt, y[one]] * inside[one] * law.decision[prompt, y[one], stop]
    )
    weight = np.where(stop == 0, start, start * law.first[1][prompt, y[two]] * inside[two])
    classes = np.stack([one, two], axis=1)
    return Structure(
        jnp.asarray(prompt, jnp.int32),
        jnp.asarray(y[classes], jnp.int32),
        jnp.asarray(z[classes], jnp.int32),
        jnp.asarray(at[k][classes]),
        jnp.asarray(stop, jnp.int32),
        jnp.asarray(weight),
        jnp.asarray(length, jnp.int32),
    )


def parameters(laws: Laws, num_prompts: int) -> Params:
    """{"first": f[Q, 2], "filler": f[Q, 2] (at the probe's position), "decision": f[Q, 2, 2]} logits."""
    filler = jnp.broadcast_to(jnp.asarray(laws.filler)[None], (num_prompts, 2))
    return {"first": jnp.asarray(laws.first), "filler": filler, "decision": jnp.asarray(laws.decision)}


def structured_logp(params: Params, x: Structure, longest: int) -> jax.Array:
    """logp_BxS of a structure, S = K (longest + 1); only the probe carries the gradient of filler logits."""
    q = x.prompt[:, None]
    first = jax.nn.log_softmax(params["first"])[q, x.first]
    filler = jax.nn.log_softmax(params["filler"])
    probe = filler[q, x.probe]
    fixed = jax.lax.stop_gradient(filler)
    others = (x.length - 2).astype(first.dtype)
    mean = (x.count * fixed[q, 1] + (others - x.count) * fixed[q, 0]) / jnp.maximum(others, 1.0)
    column = jnp.arange(longest, dtype=jnp.int32)[None, None]
    tokens = jnp.where(
        column == 0,
        first[..., None],
        jnp.where(column == 1, probe[..., None], jnp.broadcast_to(mean[..., None], (*mean.shape, longest))),
    )
    tokens = jnp.where(column < x.length, tokens, 0.0)
    decided = jnp.where(x.stop_round == 0, 0, 1)
    decide = jax.nn.log_softmax(params["decision"])[x.prompt, x.first[:, 0], decided]
    slots = jnp.stack([decide, jnp.zeros_like(decide)], axis=1)
    logp = jnp.where(x.used[..., None], jnp.concatenate([tokens, slots[..., None]], axis=-1), 0.0)
    return logp.reshape(len(x.prompt), -1)


def trajectories(scenario: Scenario, x: Structure, longest: int) -> Trajectories:
    """The structure as trajectories of up to `longest` tokens; tokens beyond L are in no mask.

    `old_logp` is the policy's, `ref_logp` the reference's.
    """
    B, Q = len(x.prompt), scenario.num_prompts
    column = jnp.arange(longest, dtype=jnp.int32)[None, None]
    answers = jnp.where(column == 0, x.first[..., None], jnp.where(column == 1, x.probe[..., None], 0))
    kept = jnp.take_along_axis(x.first, x.stop_round[:, None], axis=1)[:, 0]
    reward = jnp.asarray(scenario.reward)[x.prompt, kept] - scenario.cost * x.stop_round.astype(x.weight.dtype)
    traj = Trajectories.from_rounds(
        prompt=x.prompt[:, None],
        answers=answers,
        stop_round=x.stop_round,
        horizon=ROUNDS,
        reward=reward,
        weight=x.weight,
        group=x.prompt,
        num_groups=Q,
        exact=True,
    )
    inside = jnp.broadcast_to(
        jnp.concatenate([column < x.length, jnp.ones((1, 1, 1), bool)], -1), (B, ROUNDS, longest + 1)
    )
    old, ref = (structured_logp(parameters(laws, Q), x, longest) for laws in (scenario.policy, scenario.reference))
    values = _state_values(scenario, x.prompt, x.first, longest).reshape(B, -1)
    return traj.replace(sample_mask=traj.sample_mask & inside.reshape(B, -1), old_logp=old, ref_logp=ref, values=values)


class Values(NamedTuple):
    """Exact expected returns of the policy (whole-trajectory convention: costs already paid are included)."""

    V: np.ndarray  # f[K, Q] before round k
    U: np.ndarray  # f[K, Q, 2] after each first token of round k


def exact_values(scenario: Scenario) -> Values:
    """Backward recursion over the two rounds."""
    law = on_policy(scenario)
    U_2 = scenario.reward - scenario.cost
    V_2 = (law.first[1] * U_2).sum(-1)
    U_1 = law.decision[..., 0] * scenario.reward + law.decision[..., 1] * V_2[:, None]
    return Values(np.stack([(law.first[0] * U_1).sum(-1), V_2]), np.stack([U_1, U_2]))


def _state_values(scenario: Scenario, prompt_B: jax.Array, first_BxK: jax.Array, longest: int) -> jax.Array:
    """f[B, K, longest + 1]: the exact value before each token is drawn: V before the first, U before all others."""
    V, U = (jnp.asarray(v) for v in exact_values(scenario))
    before = jnp.moveaxis(V[:, prompt_B], 0, 1)[..., None]
    after = U[jnp.arange(ROUNDS)[None], prompt_B[:, None], first_BxK][..., None]
    return jnp.concatenate([before, jnp.broadcast_to(after, (*first_BxK.shape, longest))], axis=-1)


class Enumerated(NamedTuple):
    """The same scenario at a small length, every trajectory spelled out."""

    process: DecisionSamplingProcess
    policy: PositionwisePolicy
    params: Params
    traj: Trajectories


def enumerate_at(scenario: Scenario, length: int) -> Enumerated:
    """All trajectories under the policy, a position-wise one, on the enumerated process."""
    Q, A = scenario.num_prompts, VOCABULARY**length
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.asarray(scenario.prompt_law),
        reward_table=jnp.asarray(np.repeat(scenario.reward, A // 2, axis=1)),
        vocabulary=VOCABULARY,
        length=length,
        rounds=ROUNDS,
        cost=scenario.cost,
    )
    policy = PositionwisePolicy(Q, VOCABULARY, length, reads=1)

    def spelled(laws: Laws) -> Params:
        filler = jnp.broadcast_to(jnp.asarray(laws.filler), (Q, length - 1, 2))
        return {
            "sample": jnp.concatenate([jnp.asarray(laws.first)[:, None], filler], 1),
            "decision": jnp.asarray(laws.decision),
        }

    def law(process: DecisionSamplingProcess, params: Params, reference: Params) -> Trajectories:
        traj = process.enumerate_trajectories(policy, params)
        values = _state_values(scenario, traj.prompt[:, 0], traj.answers(length)[..., 0], length)
        ref_logp = log_probs(policy, reference, traj)
        return traj.replace(ref_logp=ref_logp, values=values.reshape(ref_logp.shape))

    given = process, spelled(scenario.policy), spelled(scenario.reference)
    return Enumerated(process, policy, given[1], compile_quickly(law, *given)(*given))


def demonstrated(scenario: Scenario, traj: Trajectories, length: int) -> Trajectories:
    """The enumerated trajectories with their probabilities as demonstrations."""
    law, x = scenario.demonstrator, jax.device_get(traj)
    answers, prompt = x.answers(length), x.prompt[:, 0]
    decided = x.blocks(x.tokens, length)[:, 0, length]
    drawn = x.blocks(x.sample_mask, length)[..., 0]
    weight = scenario.prompt_law[prompt] * law.decision[prompt, answers[:, 0, 0], decided]
    for k in range(ROUNDS):
        whole = law.first[k][prompt, answers[:, k, 0]] * np.asarray(law.filler)[answers[:, k, 1:]].prod(-1)
        weight = weight * np.where(drawn[:, k], whole, 1.0)
    return traj.replace(weight=jnp.asarray(weight))
