"""The objective atlas: how each objective shares its exact expected gradient, for answers of 1 to 1024 tokens.

Columns (docs/objectives.md): the conventions (i) to (iv) of docs/theory.md and the Euclidean twin of (iv), (v) slope of
that share against L, (vi) signs of the decision gradient, (vii) signal and noise, (viii) bias against grad J, and the
two classes of T20. Every number comes from the objective itself, through its coefficients on an exact law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dsjax.atlas.classes import ROUNDING, Classes, Classifier
from dsjax.atlas.laws import (
    Enumerated,
    Scenario,
    Structure,
    enumerate_at,
    exact_values,
    generic_scenario,
    on_policy,
    parameters,
    standard_scenario,
    structure,
    structured_logp,
    trajectories,
)
from dsjax.atlas.measure import Measured, measure, objective_on
from dsjax.attribution import component_gradients, share
from dsjax.errors import require
from dsjax.numerics import compile_quickly, exact
from dsjax.objectives import ROWS, Entry, Objective, resolve
from dsjax.objectives.law import on_law
from dsjax.objectives.registry import name_of
from dsjax.objectives.returns import is_own

LENGTHS = tuple(2**i for i in range(11))  # 1 .. 1024
SHORT = 32  # programs are compiled for answers of at most this many tokens, and for the longest
COMPARED = 5  # tokens at which structure and enumeration are compared,
COMPARED_NODES = 3  # with fewer nodes than are used for the rows, so that the rule of the count is tested too
THREADS = 2


ENTRIES = ROWS


def _sign(x: np.ndarray, scale: float) -> np.ndarray:
    """-1, 0 or 1; 0 for rounding dust."""
    return np.where(np.abs(x) <= ROUNDING * scale, 0, np.sign(x)).astype(int)


def is_zero(measured: Measured) -> bool:
    """Whether the expected gradient is rounding dust against the gradients of single trajectories."""
    signal = float(measured.energy_sample + measured.energy_decision)
    return signal <= ROUNDING**2 * float(measured.noise.moment_sample + measured.noise.moment_decision)


def sign_errors(measured: Measured, scenario: Scenario) -> dict[str, int]:
    """(vi): states at which the gradient of the STOP logit has the wrong sign, or is 0, against r - V + c (T8)."""
    values = exact_values(scenario)
    truth = _sign(scenario.reward - values.V[1][:, None] + scenario.cost, 1.0)
    gradient = np.asarray(measured.gradient.decision)[..., 0]
    found = np.zeros_like(truth) if is_zero(measured) else _sign(gradient, float(np.abs(gradient).max()))
    return {
        "states": int(truth.size),
        "wrong": int(((found != 0) & (found != truth)).sum()),
        "zero": int((found == 0).sum()),
    }


def bias(measured: Measured) -> dict[str, float | None]:
    """(viii): the part of G that is not along grad J, relative to the part that is; and how long that part is.

    `scale` = <G, grad J>/<grad J, grad J> and `relative` = |G - scale grad J|/|scale grad J| in the Fisher metric of
    the policy; `relative` is None where G has no part along grad J (scale <= 0, or rounding dust).
    """
    scale, along, across = (float(x) for x in (measured.scale, measured.along, measured.across))
    if is_zero(measured) or scale <= 0 or along <= ROUNDING * across:
        return {"scale": scale, "relative": None}
    return {"scale": scale, "relative": across / along}


def slope(shares: Mapping[int, float | None]) -> dict[str, float | None]:
    """(v): least-squares slope of log(share) against log(L), its standard error, and that between the last two L."""
    points = [(np.log(length), np.log(share)) for length, share in shares.items() if share is not None and share > 0]
    if len(points) < 3 or len(points) < len(shares):
        return {"value": None, "error": None, "tail": None}
    x, y = (np.array(v) for v in zip(*points, strict=True))
    centred = x - x.mean()
    value = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - value * centred
    error = float(np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred)))
    return {"value": value, "error": error, "tail": float((y[-1] - y[-2]) / (x[-1] - x[-2]))}


def _verdict(gaps: Sequence[Any]) -> str:
    """Whether every trajectory has one coefficient for its decision and its sampling tokens, at every length."""
    return "balanced" if max(float(gap) for gap in gaps) <= ROUNDING else "unbalanced"


# What a class says about long answers, whatever lengths were asked for (T20); `coupled` says nothing.
SURVIVES = {
    "none": "balanced",
    "tilted": "balanced",
    "per attempt": "balanced",
    "per token": "unbalanced",
    "undefined": "undefined",
}


def _share_verdict(fit: Mapping[str, float | None]) -> str:
    """Whether the share survives long answers: its slope at the longest ones is nearer to 0 than to -1."""
    tail = fit["tail"]
    return "undefined" if tail is None else "balanced" if tail > -0.5 else "unbalanced"


COLUMNS: dict[str, Callable[[Measured], Any]] = {  # one number a length; NaN for what is not defined
    "shares": lambda m: math.nan if is_zero(m) else share(m.energy_decision, m.energy_sample),  # (iv)
    "euclidean_shares": lambda m: math.nan if is_zero(m) else share(m.square_decision, m.square_sample),
    "block_shares": lambda m: m.block_share,  # (iii)
    "factor_ratio": lambda m: m.factor_ratio,  # (i)
    "token_ratio": lambda m: m.token_ratio,  # (ii)
    "snr_sample": lambda m: m.noise.ratio_sample,  # (vii)
    "snr_decision": lambda m: m.noise.ratio_decision,
}


@dataclass(frozen=True)
class Row:
    """All columns of one objective; `to_json` is the stored format."""

    name: str
    entry: Entry
    lengths: tuple[int, ...]
    measured: Sequence[Measured]  # one a length
    signs: dict[str, dict[str, int] | None]  # by verifier: "binary", "graded"
    gap: float  # against enumeration, relative to the largest entry of the gradient
    classes: Classes  # in what sense it is balanced (T20)

    def column(self, name: str) -> dict[int, float | None]:
        """One of `COLUMNS`, by length; None for what is not defined."""
        values = [float(COLUMNS[name](m)) for m in self.measured]
        return {n: x if math.isfinite(x) else None for n, x in zip(self.lengths, values, strict=True)}

    @property
    def shares(self) -> dict[int, float | None]:
        """(iv): E_d/(E_s + E_d) by length."""
        return self.column("shares")

    @property
    def unbiased(self) -> bool:
        """Whether the expected gradient is a positive multiple of grad J at every length."""
        found = [bias(m)["relative"] for m in self.measured]
        return all(x is not None and x <= ROUNDING for x in found)

    @property
    def verdicts(self) -> dict[str, str]:
        """Balanced or not, one verdict a convention."""
        return {
            "factor": _verdict([m.factor_gap for m in self.measured]),
            "token": _verdict([m.token_gap for m in self.measured]),
            "block": _share_verdict(slope(self.column("block_shares"))),
            "energy": SURVIVES.get(self.classes.filler) or _share_verdict(slope(self.shares)),
            "euclidean": _share_verdict(slope(self.column("euclidean_shares"))),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data, strict JSON (None for what is not defined); lengths are string keys."""
        by_length = {name: {str(n): x for n, x in self.column(name).items()} for name in COLUMNS}
        snr = {name: by_length.pop(f"snr_{name}") for name in ("sample", "decision")}
        ends = (self.measured[0], self.measured[-1])
        return {
            "name": self.name,
            "objective": name_of(self.entry.objective),
            "options": dict(self.entry.options),
            "data": "demonstrations" if self.entry.demonstrations else "own",
            **by_length,
            "slope": slope(self.shares),
            "sign_errors": self.signs,
            "snr": snr,
            "bias": {**bias(ends[1]), "relative_at_shortest": bias(ends[0])["relative"], "unbiased": self.unbiased},
            "verdicts": self.verdicts,
            "classes": self.classes._asdict(),
            "enumeration_gap": self.gap,
        }


@dataclass(frozen=True)
class _Laws:
    """What every row shares: structures of one scenario, by (demonstrations, length)."""

    scenario: Scenario
    structures: dict[tuple[bool, int], Structure]
    compared: dict[bool, Structure]
    spelled: dict[bool, Enumerated]

    @classmethod
    def of(cls, scenario: Scenario, lengths: Sequence[int]) -> _Laws:
        laws = {False: on_policy(scenario), True: scenario.demonstrator}
        structures = {(d, n): structure(scenario, law, n) for d, law in laws.items() for n in lengths}
        return cls(
            scenario,
            structures,
            {d: structure(scenario, law, COMPARED, COMPARED_NODES) for d, law in laws.items()},
            {d: enumerate_at(scenario, COMPARED, d) for d in laws},
        )


def _program(objective: Objective, laws: _Laws, longest: int) -> Callable[[Structure, Structure], Measured]:
    like = next(iter(laws.structures.values()))
    return compile_quickly(lambda x, own: measure(objective, laws.scenario, x, own, longest), like, like)


def _objective(entry: Entry, laws: _Laws) -> Objective:
    """The objective on these laws.

    Raises:
      InputError: for a loss of the user's own that fits no law (`on_law`).
    """
    scenario, x = laws.scenario, laws.compared[entry.demonstrations]
    objective = objective_on(entry, scenario)
    if is_own(objective):
        logp = structured_logp(parameters(scenario.policy, scenario.num_prompts), x, SHORT)
        return on_law(objective, logp, trajectories(scenario, x, SHORT))
    return objective


def _gap(entry: Entry, objective: Objective, laws: _Laws, program: Callable[[Structure, Structure], Measured]) -> float:
    """Largest difference to the gradient by enumeration at `COMPARED` tokens, relative to the largest entry."""
    measured = program(laws.compared[entry.demonstrations], laws.compared[False])
    found, spelled = measured.gradient, laws.spelled[entry.demonstrations]
    gradients = compile_quickly(
        lambda params, traj: component_gradients(spelled.policy, params, traj, objective), spelled.params, spelled.traj
    )
    true = gradients(spelled.params, spelled.traj)
    sample, decide = np.asarray(true.sample["sample"]), np.asarray(true.decision["decision"])
    pairs = ((found.first, sample[:, 0]), (found.filler, sample[:, 1]), (found.decision, decide))
    worst = max(float(np.abs(np.asarray(f) - t).max()) for f, t in pairs)
    # Against grad J too, for objectives whose own expected gradient is zero.
    entries = (*(t for _, t in pairs), *jax.tree.leaves(measured.true_gradient))
    return worst / max(float(np.abs(np.asarray(t)).max()) for t in entries)


def _classes(objective: Objective, entry: Entry, classifier: Classifier) -> Classes:
    with exact():
        return classifier(objective, entry.demonstrations)


def _row(
    name: str,
    entry: Entry,
    lengths: Sequence[int],
    asked: Sequence[tuple[Objective, _Laws]],
    classifier: Classifier,
    tick: Callable[[], None],
) -> Row:
    """`asked`: the objective on the laws of the binary verifier and on those of the graded one."""
    (objective, binary), (on_graded, graded) = asked
    with exact():
        programs = {n: _program(objective, binary, n) for n in {SHORT, max(SHORT, *lengths)}}
        measured = []
        for length in lengths:
            program = programs[SHORT if length <= SHORT else max(lengths)]
            x, own = binary.structures[entry.demonstrations, length], binary.structures[False, length]
            measured.append(jax.device_get(program(x, own)))
            found = jax.tree.leaves(measured[-1].gradient)
            finite = all(np.isfinite(g).all() for g in found)
            require(finite, f"gradient of {name} at L = {length}", "numbers that are not finite", "finite numbers")
            tick()
        gap = _gap(entry, objective, binary, programs[SHORT])
        tick()
        other = _program(on_graded, graded, SHORT)
        m = other(graded.structures[entry.demonstrations, SHORT], graded.structures[False, SHORT])
        graded_signs = sign_errors(m, graded.scenario) if np.isfinite(m.gradient.decision).all() else None
        tick()
    signs = {"binary": sign_errors(measured[-1], binary.scenario), "graded": graded_signs}
    return Row(name, entry, tuple(lengths), measured, signs, gap, _classes(objective, entry, classifier))


def compute(
    entries: Mapping[str, Entry | str | Objective] = ENTRIES,
    lengths: Sequence[int] = LENGTHS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """The rows of these entries, in order, in float64.

    Args:
      entries: what to measure, by name: a row with its options, or just an objective.
      lengths: answer lengths, increasing, 1 to 1024.
      progress: called with (done, total) as work goes on.

    Raises:
      InputError: for lengths that are not increasing or outside of 1..1024, an unknown objective or option.
    """
    lengths = tuple(lengths)
    allowed = f"increasing, 1..{LENGTHS[-1]}"
    inside = bool(lengths) and all(1 <= n <= LENGTHS[-1] for n in lengths)
    require(inside and list(lengths) == sorted(set(lengths)), "lengths", lengths, allowed)
    rows = {name: entry if isinstance(entry, Entry) else Entry(entry) for name, entry in entries.items()}
    for entry in rows.values():  # before any work
        resolve(entry.objective, entry.options)
    # The atlas is on-policy: a row that repeats another one there is read off it.
    repeats = {n: e.on_policy for n, e in rows.items() if e.on_policy in rows}
    total, done = (len(rows) - len(repeats)) * (len(lengths) + 2), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with exact():
        binary = _Laws.of(standard_scenario(), lengths)
        graded = _Laws.of(standard_scenario(graded=True), (SHORT,))
        classifier = Classifier.of(generic_scenario())
        asked = {n: [(_objective(e, laws), laws) for laws in (binary, graded)] for n, e in rows.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            new = {n: entry for n, entry in rows.items() if n not in repeats}
            jobs = {n: pool.submit(_row, n, entry, lengths, asked[n], classifier, tick) for n, entry in new.items()}
            found = {n: jobs[repeats.get(n, n)].result() for n in rows}
            classes = {
                n: pool.submit(_classes, asked[n][0][0], rows[n], classifier) for n in repeats
            }  # off-policy they differ
            again = {n: replace(found[n], name=n, entry=rows[n], classes=x.result()) for n, x in classes.items()}
            return list((found | again).values())
        finally:
            pool.shutdown(cancel_futures=True)
