"""What a theorem is to the runner: a statement, claims with argued tolerances, and wrong variants to be rejected.

    THEOREM = Theorem(STATEMENTS["T0"], shapes=(...), prepare=Setting)
    everywhere, binary = THEOREM.on(), THEOREM.on(lambda shape: not shape.graded)

    mean = everywhere.equation("J = E[R]", lambda s: gap(s.mean, s.J))
    binary.inequality("J < 1, some answer is wrong", lambda s: 1.0 - s.J, strict=True)

    @THEOREM.on(lambda shape: shape.cost).control("cost left out", mean)
    def free(s: Setting) -> jax.Array:
        ...

Claims and controls stand where they are measured and are all known before anything runs: which of them a shape has is a
function of the shape alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from dsjax.process import DecisionSamplingProcess
from proofs_check import extremes, instances
from proofs_check.extremes import Spared
from proofs_check.instances import Shape
from proofs_check.numerics import SUM, shortfall
from proofs_check.requirements import Requirement
from proofs_check.statement import Statement

OfShape = Callable[[Any], bool]
OfSetting = Callable[[Any], jax.Array]


def always(shape: Any) -> bool:
    """On every shape."""
    del shape
    return True


def never(shape: Any) -> bool:
    """On no shape."""
    del shape
    return False


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
      when: shapes that it is about.
      error: distance from an equation on a setting; by default how far `margin` is below 0.
      margin: slack of an inequality on a setting.
      strict: the inequality must hold strictly, so its margin must be > 0 on every instance.
      tight: shapes on which the slack is 0 by another claim, so that no margin is reported.
    """

    name: str
    tolerance: float
    when: OfShape
    error: OfSetting | None = None
    margin: OfSetting | None = None
    strict: bool = False
    tight: OfShape = never

    def measure(self, setting: Any, shape: Any) -> Measured:
        """What an instance of that shape says about it."""
        margin = None if self.margin is None else self.margin(setting)
        if self.error is not None:
            error = self.error(setting)
        else:
            assert margin is not None, f"claim without a measure: {self.name}"
            error = shortfall(margin)
        return Measured(error, None if self.tight(shape) else margin)


@dataclass(frozen=True)
class Control:
    """A wrong variant of a claim: its error must exceed the claim's tolerance on every instance that it applies to."""

    name: str
    claim: Claim
    error: OfSetting
    when: OfShape


def _kinds(theorem: Theorem, shape: Shape, process: DecisionSamplingProcess) -> tuple[Hashable, ...]:
    """The given process with every kind of policy that the theorem is checked with; one number of shared parameters."""
    del process
    kinds = {(s.shared > 0, s.network): s for s in theorem.shapes if isinstance(s, Shape)}
    return tuple(replace(shape, shared=s.shared, network=s.network) for s in kinds.values())


@dataclass(frozen=True)
class Theorem:
    """A statement with everything that is needed to check it on random instances.

    Attributes:
      about: the statement in words.
      shapes: what random instances are drawn from; each is compiled once.
      tolerance: of claims that do not argue for another one.
      draw: `draw(key, shape, process)` makes an instance, on a random process if that is None.
      prepare: makes the setting of an instance, which claims and controls are measured on.
      extreme: `extreme(instance, number, kinds)` moves an instance to the edge of that number; see `extremes`.
      spared: what is left out at an edge.
      telling: shapes on which wrong variants can be told from right ones. Nothing keeps a network from being almost
        certain, and then they are small.
      requires: what a user's own process must satisfy.
      on_process: shapes for a user's own process of a given plain shape.
      claims: what is checked; declared by `on`.
      controls: wrong variants; declared by `on`.
    """

    about: Statement
    shapes: tuple[Hashable, ...]
    tolerance: float = SUM
    draw: Callable[..., Any] = instances.draw
    extreme: Callable[[Any, Any, tuple[str, ...]], Any] = extremes.at_extreme
    spared: tuple[Spared, ...] = ()
    prepare: Callable[[Any], Any] = lambda instance: instance
    telling: OfShape = always
    requires: tuple[Requirement, ...] = ()
    on_process: Callable[[Theorem, Shape, DecisionSamplingProcess], tuple[Hashable, ...]] = _kinds
    claims: list[Claim] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)

    @property
    def id(self) -> str:
        """`T1`, `T2`, .."""
        return self.about.id

    def on(self, when: OfShape = always) -> Scope:
        """Where claims and controls about those shapes are declared."""
        return Scope(self, when)

    def measure(self, shape: Any, instance: Any) -> tuple[dict[str, Measured], dict[str, jax.Array]]:
        """(claims, errors of the controls) by name, of one instance of that shape."""
        setting = self.prepare(instance)
        claims = {c.name: c.measure(setting, shape) for c in self.claims if c.when(shape)}
        return claims, {c.name: c.error(setting) for c in self.controls if c.when(shape)}

    def kinds(self, shape: Any) -> tuple[str, ...]:
        """The extremes of a shape."""
        return extremes.kinds(shape, self.spared)

    def spares(self, claim: str, extreme: str | None, shape: Any) -> bool:
        """Whether nothing is asked of that claim (of an equation with a margin: of its margin) at that extreme."""
        return any(s.extreme == extreme and claim in s.claims and s.when(shape) for s in self.spared)

    def unreached(self) -> list[str]:
        """Claims and controls that none of the shapes has, and names of spared claims that are none."""
        nowhere = [c.name for c in (*self.claims, *self.controls) if not any(c.when(s) for s in self.shapes)]
        names = {c.name for c in self.claims}
        return nowhere + [name for s in self.spared for name in s.claims if name not in names]

    def unmet(self, process: DecisionSamplingProcess) -> tuple[str, ...]:
        """The requirements that a process does not satisfy, in words."""
        return tuple(r.text for r in self.requires if not r.holds(process))


@dataclass(frozen=True)
class Scope:
    """Some shapes of a theorem: claims and controls declared here are about those.

    Each method takes the measure, or is a decorator of it if it is left out.
    """

    theorem: Theorem
    when: OfShape

    def equation(
        self,
        name: str,
        error: OfSetting | None = None,
        tolerance: float | None = None,
        *,
        margin: OfSetting | None = None,
        strict: bool = False,
    ) -> Any:
        """A claim, from its distance to the equation; `margin` is that of an inequality that comes with it."""
        if error is None:
            return lambda measure: self.equation(name, measure, tolerance, margin=margin, strict=strict)
        return self._claim(name, tolerance, error=error, margin=margin, strict=strict)

    def inequality(
        self,
        name: str,
        margin: OfSetting | None = None,
        tolerance: float | None = None,
        *,
        strict: bool = False,
        tight: OfShape = never,
    ) -> Any:
        """A claim, from its slack."""
        if margin is None:
            return lambda measure: self.inequality(name, measure, tolerance, strict=strict, tight=tight)
        return self._claim(name, tolerance, margin=margin, strict=strict, tight=tight)

    def _claim(self, name: str, tolerance: float | None, **options: Any) -> Claim:
        claim = Claim(name, self.theorem.tolerance if tolerance is None else tolerance, self.when, **options)
        self.theorem.claims.append(claim)
        return claim

    def control(self, name: str, claim: Claim, error: OfSetting | None = None) -> Any:
        """A wrong variant of a claim, on those of the shapes that are telling."""
        if error is None:
            return lambda measure: self.control(name, claim, measure)
        when, telling = self.when, self.theorem.telling
        control = Control(name, claim, error, lambda shape: telling(shape) and when(shape))
        self.theorem.controls.append(control)
        return control
