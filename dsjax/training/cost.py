"""What a training step costs, by count: tokens, floating-point operations, bytes in memory and over the network.

Counts are of the network as `TransformerPolicy` computes it: N tokens a row, width D, `layers` blocks with an MLP of
4 D, attention over the whole row (masked entries are computed too). Operations of a product of an m x k and a k x n
matrix are 2 m k n; everything else is a few percent of them and is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax

from dsjax.policies.transformer import TransformerPolicy
from dsjax.training.arms import Family
from dsjax.training.sharding import Layout

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class StepCost:
    """One update of all devices together.

    Attributes:
      tokens: read by the network in its teacher-forced pass.
      sampled_tokens: fed to the network one at a time.
      flops: operations of all products.
      state_bytes: parameters, gradient and two Adam moments, of all copies.
      activation_bytes: of the parts in flight on all devices, see `activation_bytes`.
      network_bytes: sent by each device: a ring all-reduce of the gradient, or with `fsdp` a gather of the parameters
        and a reduce-scatter of the gradient, together the same.
    """

    tokens: int
    sampled_tokens: int
    flops: int
    state_bytes: int
    activation_bytes: int
    network_bytes: int


def parameters(policy: TransformerPolicy) -> int:
    """Entries of all parameters."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(policy.init, jax.random.key(0))))


def block_weights(policy: TransformerPolicy) -> int:
    """Entries of the blocks' matrices: 12 layers D^2 with an MLP of 4 D."""
    return (4 + 2 * policy.mlp_ratio) * policy.layers * policy.width**2


def row_tokens(policy: TransformerPolicy, rounds: int) -> int:
    """N = P + T (L + 1)."""
    return policy.prompt_length + rounds * (policy.length + 1)


def least_bytes(policy: TransformerPolicy, rounds: int, rows: int) -> dict[str, int]:
    """What an update takes at least in memory, on all devices together, by the sizes that ask for it.

    Parameters, gradient and two moments of the blocks, and an id and a log-prob of each token: all of them are there
    at once, whatever the program.
    """
    return {
        "network": 4 * FLOAT32 * block_weights(policy),
        "batch": 2 * FLOAT32 * rows * row_tokens(policy, rounds),
    }


def _flops(policy: TransformerPolicy, rounds: int, rows: int, outputs: int) -> int:
    """Trunks on whole rows, and heads with `outputs` logits a round."""
    N, D = row_tokens(policy, rounds), policy.width
    blocks = 2 * N * block_weights(policy) + policy.layers * 4 * N * N * D
    embedding = 2 * N * policy.num_ids * D
    trunks = 2 if policy.separate_trunks else 1
    return rows * (trunks * (blocks + embedding) + 2 * rounds * D * outputs)


def forward_flops(policy: TransformerPolicy, rounds: int, rows: int) -> int:
    """Of a teacher-forced pass."""
    return _flops(policy, rounds, rows, policy.length * policy.vocabulary + 2)


def decode_flops(policy: TransformerPolicy, rounds: int, rows: int) -> int:
    """Of sampling: every token attends to all slots of the cache, filled or not; both heads at every token."""
    return _flops(policy, rounds, rows, (policy.length + 1) * (policy.vocabulary + 2))


def activation_bytes(policy: TransformerPolicy, rounds: int, rows: int) -> int:
    """What the gradient of `rows` rows keeps in flight, with the gradients of the same size (x 2), in float32.

    Per token and layer, in units of D: input, norm and query, key, value (5), attention output and its projection (2),
    norm and output of the MLP (2), its hidden values before and after the activation (2 x 4); and for each head N
    attention weights before and after the softmax.
    """
    N = row_tokens(policy, rounds)
    per_token = policy.layers * ((9 + 2 * policy.mlp_ratio) * policy.width + 2 * policy.heads * N)
    return FLOAT32 * 2 * rows * N * per_token


def step_cost(
    policy: TransformerPolicy, layout: Layout, family: Family, rows: int, rounds: int, linear: bool = True
) -> StepCost:
    """Of one update on `rows` rows: `sft` on given data, `reward` with its rollouts.

    `linear`: the coefficients of the objective do not depend on the log-probs (SFT, REINFORCE, RLOO).
    """
    P, n = parameters(policy), layout.devices
    part = layout.rows(row_tokens(policy, rounds))
    in_flight = min(rows // n, part or rows)
    # Forward, and twice that for the gradient; parts are computed again if the objective sees the whole batch first.
    passes = 4 if part and not linear else 3
    flops = passes * forward_flops(policy, rounds, rows)
    sampled = 0
    if family == "reward":
        sampled = rows * rounds * (policy.length + 1)
        flops += decode_flops(policy, rounds, rows)
    copies = 1 if layout.parameters == "fsdp" else n
    return StepCost(
        tokens=rows * row_tokens(policy, rounds),
        sampled_tokens=sampled,
        flops=flops,
        state_bytes=copies * 4 * FLOAT32 * P,
        activation_bytes=n * activation_bytes(policy, rounds, in_flight),
        network_bytes=2 * (n - 1) * FLOAT32 * P // n,
    )
