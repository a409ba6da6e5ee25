"""What a theorem is to the runner: a statement, claims with argued tolerances, controls that must be rejected."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax

from dsjax.process import DecisionSamplingProcess
from proofs_check import instances
from proofs_check.instances import Shape
from proofs_check.requirements import Requirement

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


def _kinds(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Hashable, ...]:
    """The given process with every kind of policy that the theorem is checked with."""
    del process
    kinds = dict.fromkeys((s.shared, s.network) for s in theorem.shapes if isinstance(s, Shape))
    return tuple(replace(shape, shared=shared, network=network) for shared, network in kinds)


@dataclass(frozen=True)
class Theorem:
    """A statement with everything that is needed to check it on random instances.

    `draw(key, shape, process)` makes an instance (on a random process if that is None), `prepare(instance)` computes
    once what `check` and `control` share. `check` returns the claims, `control` the errors of the wrong variants, that
    apply to the instance's static shape.

    Attributes:
      id: `T1`, `T2`, ..
      title: in a few words.
      statement: in a line.
      provenance: tag of docs/theory.md.
      assumptions: what must hold, in words.
      proof: why it holds, in a few sentences; docs/theory.md has the whole.
      shapes: what random instances are drawn from; each is compiled once.
      claims: what is checked.
      controls: wrong variants.
      check: claims on a setting.
      control: errors of the wrong variants on a setting.
      draw: makes an instance.
      prepare: makes the setting of an instance.
      requires: what a user's own process must satisfy.
      on_process: shapes for a user's own process of a given plain shape.
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
    proof: str = ""
    draw: Callable[..., Any] = instances.draw
    prepare: Callable[[Any], Any] = lambda instance: instance
    requires: tuple[Requirement, ...] = ()
    on_process: Callable[[Theorem, Shape, DecisionSamplingProcess], tuple[Hashable, ...]] = _kinds

    def tolerance(self, claim: str) -> float:
        """Tolerance of the claim of that name."""
        return next(c.tolerance for c in self.claims if c.name == claim)

    def unmet(self, process: DecisionSamplingProcess) -> tuple[str, ...]:
        """The requirements that a process does not satisfy, in words."""
        return tuple(r.text for r in self.requires if not r.holds(process))
