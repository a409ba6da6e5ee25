"""A policy computed part by part over the batch: the same numbers with less memory, and faster where caches are small.

The network's activations of a whole batch do not fit into a processor's cache, those of some thousand tokens do. Each
part is recomputed when its gradient is taken (rematerialisation), so only the log-probabilities of the batch are kept:
objectives still see the whole batch at once, with every baseline and normaliser that they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from dsjax.policies.base import History, Params

DATA = "data"  # the mesh axis over which batches are split


def part_size(rows: int, most: int) -> int:
    """The largest divisor of `rows` that is at most `most`: parts of equal size, without padding."""
    return max(d for d in range(1, min(rows, most) + 1) if rows % d == 0)


class InParts(struct.PyTreeNode):
    """Any `Policy`, teacher-forced in parts of the batch; decoding is passed on unchanged.

    Attributes:
      policy: the policy.
      rows: sequences a device takes at a time, or the largest divisor of its share below; 0 is all of them, kept for
        the gradient instead of recomputed.
      mesh: devices with an axis `data` over which the batch is split; None leaves placement to JAX.
    """

    policy: Any
    rows: int = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)

    @property
    def length(self) -> int:
        """L, tokens per answer."""
        return self.policy.length

    @property
    def history(self) -> History:
        """What a later round sees of earlier ones."""
        return getattr(self.policy, "history", "none")

    @property
    def attempt_id(self) -> int:
        """The token that opens a round."""
        return getattr(self.policy, "attempt_id", 0)

    @property
    def critic(self) -> bool:
        """Whether the policy estimates values too."""
        return getattr(self.policy, "critic", False)

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        return self.policy.init(key)

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        return self._in_parts(self.policy.log_dists, params, prompt_BxP, answers_BxKxL)

    def values(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> jax.Array:
        """See `TransformerPolicy.values`."""
        return self._in_parts(self.policy.values, params, prompt_BxP, answers_BxKxL)

    def start(self, params: Params, prompt_BxP: jax.Array, rounds: int) -> Any:
        """See `CachedPolicy.start`."""
        return self.policy.start(params, prompt_BxP, rounds)

    def step(
        self, params: Params, state: Any, ids_Bxn: jax.Array, first_round: Any, offset: Any, rounds: int
    ) -> tuple[jax.Array, jax.Array, Any]:
        """See `CachedPolicy.step`."""
        return self.policy.step(params, state, ids_Bxn, first_round, offset, rounds)

    def _in_parts(self, function: Callable[..., Any], params: Params, *arrays: jax.Array) -> Any:
        mesh, batch = self.mesh, arrays[0].shape[0]
        if mesh is None:
            return self._on_one_device(function, params, *arrays)
        if batch % mesh.shape[DATA]:  # nothing to split evenly: a few rows, for a shape or a test
            return function(params, *arrays)

        def on_each(params: Params, *arrays: jax.Array) -> Any:
            # Each device has its own copy from here on: gradients are added up once, after the last part.
            own = jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to="varying"), params)
            return self._on_one_device(function, own, *arrays)

        whole, split = PartitionSpec(), PartitionSpec(DATA)
        return jax.shard_map(on_each, mesh=mesh, in_specs=(whole, *(split for _ in arrays)), out_specs=split)(
            params, *arrays
        )

    def _on_one_device(self, function: Callable[..., Any], params: Params, *arrays: jax.Array) -> Any:
        batch = arrays[0].shape[0]
        part = part_size(batch, self.rows) if self.rows else batch
        if part == batch and not self.rows:
            return function(params, *arrays)

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(-1, part, *x.shape[1:])

        def join(x: jax.Array) -> jax.Array:
            return x.reshape(batch, *x.shape[2:])

        one_part = jax.checkpoint(lambda xs: function(params, *xs))
        return jax.tree.map(join, jax.lax.map(one_part, jax.tree.map(split, arrays)))
