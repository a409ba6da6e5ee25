"""Where a training step runs: devices, how parameters lie on them, and how much of the batch is in flight.

Batches are split over the one mesh axis `data`; XLA inserts the communication (one all-reduce of the gradient a step
with replicated parameters). Random numbers and losses do not depend on the split, so any number of devices computes the
same step up to the order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dsjax.config import require_int
from dsjax.errors import require
from dsjax.policies.base import Policy
from dsjax.policies.microbatch import DATA, InParts

ParameterSharding = Literal["replicated", "fsdp"]
TOKENS_IN_FLIGHT = 1280  # of a part, on processors: their activations stay in the cache
LEAST_SHARDED = 1024  # entries: smaller arrays cost more to gather than to keep


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices of all processes (None: all) with the axis `data`.

    Raises:
      InputError: if there are not so many.
    """
    there = jax.devices()
    count = len(there) if devices is None else devices
    require_int("devices", count, 1)
    require(count <= len(there), "devices", count, f"at most {len(there)}, the {there[0].platform} devices there are")
    require(
        jax.process_count() == 1 or count == len(there), "devices", count, f"{len(there)}: all devices of all processes"
    )
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Auto,), devices=there[:count])


@dataclass(frozen=True)
class Layout:
    """How one training step is laid out.

    Attributes:
      mesh: from `data_mesh`; None is one device, chosen by JAX.
      parameters: `replicated`, or `fsdp`: parameters and optimiser state split over the devices.
      microbatch: sequences a device runs at a time, recomputed for their gradient; 0 is the whole batch at once;
        None is 0 on accelerators and about 1280 tokens on processors.
    """

    mesh: Mesh | None = None
    parameters: ParameterSharding = "replicated"
    microbatch: int | None = None

    def __post_init__(self) -> None:
        require(self.parameters in get_args(ParameterSharding), "parameters", self.parameters, "replicated, fsdp")
        if self.microbatch is not None:
            require_int("microbatch", self.microbatch, 0, "0 is the whole batch")

    @property
    def devices(self) -> int:
        """How many devices share a step."""
        return 1 if self.mesh is None else self.mesh.size

    def rows(self, row_tokens: int) -> int:
        """Sequences of this many tokens, with their prompt, that a device runs at a time; 0 is all of them."""
        if self.microbatch is not None:
            return self.microbatch
        platform = jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        return max(1, TOKENS_IN_FLIGHT // row_tokens) if platform == "cpu" else 0

    def policy(self, policy: Policy, row_tokens: int) -> Policy:
        """The policy as this layout computes it on sequences of this many tokens."""
        rows = self.rows(row_tokens)
        return policy if rows == 0 and self.mesh is None else InParts(policy, rows, self.mesh)

    def split_batch(self, tree: Any) -> Any:
        """Constrain arrays with a leading batch axis to lie split over the devices."""
        if self.mesh is None:
            return tree
        mesh = self.mesh

        def one(x: Any) -> Any:
            even = getattr(x, "ndim", 0) > 0 and x.shape[0] % mesh.size == 0
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(DATA))) if even else x

        return jax.tree.map(one, tree)

    def sharding(self, x: Any) -> NamedSharding | None:
        """Where an array of the training state lies: its longest evenly divisible axis is split under `fsdp`."""
        if self.mesh is None:
            return None
        spec = PartitionSpec()
        plain = not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        if self.parameters == "fsdp" and plain and np.prod(x.shape, dtype=int) >= LEAST_SHARDED:
            axes = [i for i, n in enumerate(x.shape) if n % self.mesh.size == 0]
            if axes:
                longest = max(axes, key=lambda i: x.shape[i])
                spec = PartitionSpec(*(DATA if i == longest else None for i in range(x.ndim)))
        return NamedSharding(self.mesh, spec)

    def shardings(self, tree: Any) -> Any:
        """`sharding` of every leaf, for `jit` and for restoring checkpoints; None without a mesh."""
        return None if self.mesh is None else jax.tree.map(self.sharding, tree)

    def place(self, tree: Any) -> Any:
        """The tree on its devices; every process gives the same values."""
        if self.mesh is None:
            return tree
        return jax.jit(lambda x: x, out_shardings=self.shardings(tree))(tree)

    def gathered(self, tree: Any) -> Any:
        """Inside of a program: all of every leaf on each device, as products need it.

        Without it XLA would split the products as the parameters are split, and send activations around instead.
        """
        if self.mesh is None or self.parameters == "replicated":
            return tree
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)

    def constrain(self, tree: Any) -> Any:
        """Inside of a program: keep every leaf where `sharding` puts it."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.sharding(x)), tree)


ONE_DEVICE = Layout()
