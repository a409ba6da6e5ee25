"""A policy computed part by part over the batch: the same numbers with less memory, and faster where caches are small.

The network's activations of a whole batch do not fit into a processor's cache, those of some thousand tokens do. Each
part is recomputed when its gradient is taken (rematerialisation), so only the log-probabilities of the batch are kept:
objectives still see the whole batch at once, with every baseline and normaliser that they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from dsjax.policies.base import Params, Pull, WrappedPolicy, log_probs
from dsjax.trajectories import Trajectories

DATA = "data"  # the mesh axis over which batches are split


def part_size(rows: int, most: int) -> int:
    """The largest divisor of `rows` that is at most `most`: parts of equal size, without padding."""
    return max(d for d in range(1, min(rows, most) + 1) if rows % d == 0)


class InParts(WrappedPolicy):
    """Any policy (`base`), teacher-forced in parts of the batch; decoding is passed on unchanged.

    Attributes:
      rows: sequences a device takes at a time, or the largest divisor of its share below; 0 is all of them, kept for
        the gradient instead of recomputed.
      mesh: devices with an axis `data` over which the batch is split; None leaves placement to JAX.
    """

    rows: int = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)

    def log_dists(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Policy.log_dists`."""
        return self._in_parts(self.base.log_dists, params, prompt_BxP, answers_BxKxL)

    def values(self, params: Params, prompt_BxP: jax.Array, answers_BxKxL: jax.Array) -> jax.Array:
        """See `Policy.values`."""
        return self._in_parts(self.base.values, params, prompt_BxP, answers_BxKxL)

    def start(self, params: Params, prompt_BxP: jax.Array, rounds: int) -> Any:
        """See `Policy.start`."""
        return self.base.start(params, prompt_BxP, rounds)

    def step(
        self, params: Params, state: Any, ids_Bxn: jax.Array, first_round: Any, offset: Any, rounds: int
    ) -> tuple[jax.Array, jax.Array, Any]:
        """See `Policy.step`."""
        return self.base.step(params, state, ids_Bxn, first_round, offset, rounds)

    def log_probs_vjp(self, params: Params, traj: Trajectories) -> tuple[jax.Array, Pull]:
        """See `Policy.log_probs_vjp`: a part's gradient is taken, and added up, as soon as it is computed."""
        if not self.rows or not self._splits(traj.tokens.shape[0]):
            return super().log_probs_vjp(params, traj)

        def one_part(params: Params, traj: Trajectories, cotangents: tuple[jax.Array, ...]) -> Any:
            return self.base.log_probs_vjp(params, traj)[1](cotangents)

        def summed(params: Params, *xs: Any) -> Any:
            def add(total: Any, part: Any) -> Any:
                logp, gradients = one_part(params, *part)
                return jax.tree.map(jnp.add, total, gradients), logp

            zero = jax.tree.map(jnp.zeros_like, tuple(params for _ in xs[1]))
            total, logp = jax.lax.scan(add, zero, self._split(xs))
            return _joined(logp), total if self.mesh is None else jax.lax.psum(total, DATA)

        def pull(cotangents: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[Params, ...]]:
            return self._on_devices(summed, (PartitionSpec(DATA), PartitionSpec()), params, traj, cotangents)

        return log_probs(self, params, traj), pull

    def _in_parts(self, function: Callable[..., Any], params: Params, *arrays: jax.Array) -> Any:
        def on_one_device(params: Params, *arrays: jax.Array) -> Any:
            if not self.rows:
                return function(params, *arrays)
            one_part = jax.checkpoint(lambda part: function(params, *part))
            return _joined(jax.lax.map(one_part, self._split(arrays)))

        if not self._splits(arrays[0].shape[0]):
            return function(params, *arrays)
        return self._on_devices(on_one_device, PartitionSpec(DATA), params, *arrays)

    def _splits(self, batch: int) -> bool:
        """Whether the rows can be split evenly over the devices; a few may not, for a shape or a test."""
        return self.mesh is None or batch % self.mesh.shape[DATA] == 0

    def _on_devices(self, function: Callable[..., Any], out_specs: Any, params: Params, *trees: Any) -> Any:
        """function(params, *trees), with the rows of `trees` split over the devices."""
        if self.mesh is None:
            return function(params, *trees)

        def on_each(params: Params, *trees: Any) -> Any:
            # Each device has its own copy from here on: gradients are added up once, after the last part.
            own = jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to="varying"), params)
            return function(own, *trees)

        specs = (PartitionSpec(), *(PartitionSpec(DATA) for _ in trees))
        return jax.shard_map(on_each, mesh=self.mesh, in_specs=specs, out_specs=out_specs)(params, *trees)

    def _split(self, tree: Any) -> Any:
        """Rows in parts: [B, ..] to [parts, rows, ..]."""
        part = part_size(jax.tree.leaves(tree)[0].shape[0], self.rows)
        return jax.tree.map(lambda x: x.reshape(-1, part, *x.shape[1:]), tree)


def _joined(tree: Any) -> Any:
    """The inverse of splitting rows in parts."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
