"""What a theorem is to the runner: a statement, claims with argued tolerances, controls that must be rejected."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from proofs_check import instances

Provenance = Literal["[P]", "[P/R]", "[R]", "[N]"]


class Measured(NamedTuple):
    """What one instance says about one claim."""

    error: jax.Array  # f[] distance from the claim, in the unit that the claim's tolerance is argued in
    margin: jax.Array | None = None  # f[] slack of an inequality; None for an equation


@dataclass(frozen=True)
class Claim:
    """One checkable sentence of a theorem.

    Attributes:
      name: what is compared.
      tolerance: largest error that rounding explains; argued where it is defined, never tuned.
      strict: an inequality that must hold strictly, so its margin must be > 0 on every instance.
    """

    name: str
    tolerance: float
    strict: bool = False


@dataclass(frozen=True)
class Control:
    """A wrong variant of a claim: its error must exceed the claim's tolerance on every instance that it applies to."""

    name: str
    claim: str


@dataclass(frozen=True)
class Theorem:
    """A statement with everything that is needed to check it on random instances.

    `draw(key, shape)` makes an instance, `prepare(instance)` computes once what `check` and `control` share. `check`
    returns the claims, `control` the errors of the wrong variants, that apply to the instance's static shape.
    """

    id: str
    title: str
    statement: str
    provenance: Provenance
    assumptions: tuple[str, ...]
    shapes: tuple[Hashable, ...]
    claims: tuple[Claim, ...]
    controls: tuple[Control, ...]
    check: Callable[[Any], dict[str, Measured]]
    control: Callable[[Any], dict[str, jax.Array]]
    draw: Callable[[jax.Array, Any], Any] = instances.draw
    prepare: Callable[[Any], Any] = lambda instance: instance

    def tolerance(self, claim: str) -> float:
        """Tolerance of the claim of that name."""
        return next(c.tolerance for c in self.claims if c.name == claim)
