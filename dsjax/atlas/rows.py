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
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.atlas.classes import ROUNDING, Classes, Classifier
from dsjax.atlas.laws import (
    NODES,
    Laws,
    Scenario,
    Structure,
    demonstrated,
    enumerate_at,
    exact_values,
    generic_scenario,
    on_policy,
    standard_scenario,
    structure,
)
from dsjax.atlas.measure import Measured, Shown, Truth, analyse, objective_on, show, truth
from dsjax.attribution import coefficients, share
from dsjax.errors import require
from dsjax.numerics import compile_quickly, exact
from dsjax.objectives import ROWS, Entry, Objective, resolve
from dsjax.objectives.law import on_law
from dsjax.objectives.registry import name_of
from dsjax.policies import Params, log_probs
from dsjax.trajectories import Trajectories

LENGTHS = tuple(2**i for i in range(11))  # 1 .. 1024
SHORT = 32  # programs are compiled for answers of at most this many tokens, and for the longest
COMPARED = 5  # tokens at which structure and enumeration are compared,
COMPARED_NODES = 3  # with fewer nodes than are used for the rows, so that the rule of the count is tested too
THREADS = 2


ENTRIES = ROWS
Ask = Callable[[jax.Array, Trajectories], jax.Array]  # coefficients of an objective, compiled


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
class _Programs:
    """What is the same for all objectives of a scenario, compiled for answers that are padded to so many tokens."""

    scenario: Scenario
    like: Shown  # shapes
    show: Callable[[Structure], Shown]
    truth: Callable[[Laws, Shown], Truth]
    analyse: Callable[[Laws, jax.Array, Shown, Truth], Measured]

    @classmethod
    def of(cls, scenario: Scenario, longest: int) -> _Programs:
        policy, x = scenario.policy, structure(scenario, on_policy(scenario), longest)
        like = jax.eval_shape(partial(show, scenario, longest=longest), x)
        true = jax.eval_shape(truth, policy, like)
        return cls(
            scenario,
            like,
            compile_quickly(partial(show, scenario, longest=longest), x),
            compile_quickly(truth, policy, like),
            jax.jit(analyse).lower(policy, like.logp, like, true).compile(),  # runs once a row and length: optimised
        )

    def on(self, scenario: Scenario) -> _Programs:
        """The same for a scenario that differs in its rewards alone."""
        shows = partial(show, scenario, longest=self.like.longest)
        return replace(self, scenario=scenario, show=compile_quickly(shows, self.like.structure))


@dataclass(frozen=True)
class _Laws:
    """What every objective is asked on at one length."""

    programs: _Programs
    length: int
    seen: dict[bool, Shown]  # by demonstrations
    true: Truth

    @classmethod
    def of(cls, programs: _Programs, length: int, nodes: int = NODES) -> _Laws:
        scenario = programs.scenario
        laws = {False: on_policy(scenario), True: scenario.demonstrator}
        seen = {d: programs.show(structure(scenario, law, length, nodes)) for d, law in laws.items()}
        return cls(programs, length, seen, programs.truth(scenario.policy, seen[False]))

    def objective(self, entry: Entry) -> Objective:
        """The objective on these laws.

        Raises:
          InputError: for a loss of the user's own that fits no law (`on_law`).
        """
        seen = self.seen[entry.demonstrations]
        return on_law(objective_on(entry, self.programs.scenario), seen.logp, seen.traj)

    def measure(self, ask: Ask, demonstrations: bool) -> Measured:
        """Of the objective with these coefficients."""
        seen = self.seen[demonstrations]
        c_BxS = ask(seen.logp, seen.traj)
        return jax.device_get(self.programs.analyse(self.programs.scenario.policy, c_BxS, seen, self.true))


@dataclass(frozen=True)
class _Spelled:
    """Every trajectory of `COMPARED` tokens by enumeration."""

    traj: dict[bool, Trajectories]  # by demonstrations
    logp: jax.Array
    pull: Callable[[Trajectories, jax.Array], tuple[Params, Params]]  # (G_s, G_d) with these coefficients

    @classmethod
    def of(cls, scenario: Scenario) -> _Spelled:
        _, policy, params, traj = enumerate_at(scenario, COMPARED)

        def pull(traj: Trajectories, c_BxS: jax.Array) -> tuple[Params, Params]:
            masks = traj.sample_mask, traj.decision_mask
            return policy.log_probs_vjp(params, traj)[1](tuple(jnp.where(m, c_BxS, 0.0) for m in masks))[1]

        logp = compile_quickly(partial(log_probs, policy), params, traj)(params, traj)
        shown = demonstrated(scenario, traj, COMPARED)
        return cls({False: traj, True: shown}, logp, compile_quickly(pull, traj, logp))

    def gap(self, ask: Ask, measured: Measured, demonstrations: bool) -> float:
        """Largest difference of a measured gradient to that by enumeration, relative to the largest entry."""
        traj, found = self.traj[demonstrations], measured.gradient
        sample, decide = jax.device_get(self.pull(traj, ask(self.logp, traj)))
        pairs = (
            (found.first, sample["sample"][:, 0]),
            (found.filler, sample["sample"][:, 1]),
            (found.decision, decide["decision"]),
        )
        worst = max(float(np.abs(f - t).max()) for f, t in pairs)
        # Against grad J too, for objectives whose own expected gradient is zero.
        entries = (*(t for _, t in pairs), *jax.tree.leaves(measured.true_gradient))
        return worst / max(float(np.abs(t).max()) for t in entries)


@dataclass(frozen=True)
class _Asked:
    """An objective by its coefficients, compiled for all shapes."""

    padded: dict[int, Ask]  # by the tokens that answers are padded to
    graded: Ask
    spelled: Ask


@dataclass(frozen=True)
class _Atlas:
    """What all rows share; the laws of long answers, which take much memory, are made one after the other."""

    programs: dict[int, _Programs]  # by the tokens that answers are padded to
    compared: tuple[_Laws, _Laws]  # with the binary verifier and with the graded one
    graded: _Laws
    spelled: _Spelled
    classifier: Classifier

    @classmethod
    def of(cls, compared: tuple[_Laws, _Laws], longest: int) -> _Atlas:
        binary, graded = (laws.programs for laws in compared)
        programs = {SHORT: binary}
        if longest > SHORT:
            programs[longest] = _Programs.of(binary.scenario, longest)
        spelled, classifier = _Spelled.of(standard_scenario()), Classifier.of(generic_scenario())
        return cls(programs, compared, _Laws.of(graded, SHORT), spelled, classifier)

    def at(self, length: int) -> _Laws:
        """Those of answers of one length."""
        with exact():
            return _Laws.of(self.programs[SHORT if length <= SHORT else max(self.programs)], length)

    def compile(self, binary: Objective, graded: Objective) -> _Asked:
        """Their coefficients."""
        with exact():
            shapes = {n: (p.like.logp, p.like.traj) for n, p in self.programs.items()}
            padded = {n: _ask(binary, *shape) for n, shape in shapes.items()}
            on_graded = padded[SHORT] if _same(binary, graded) else _ask(graded, *shapes[SHORT])
            return _Asked(padded, on_graded, _ask(binary, self.spelled.logp, self.spelled.traj[False]))

    def classes(self, objective: Objective, entry: Entry) -> Classes:
        """In what sense an objective is balanced."""
        with exact():
            return self.classifier(objective, entry.demonstrations)

    def row(self, name: str, entry: Entry, measured: Mapping[int, Measured], asked: _Asked) -> Row:
        """What was measured, by length, and all that is asked on short answers."""
        with exact():
            compared = self.compared[0].measure(asked.padded[SHORT], entry.demonstrations)
            gap = self.spelled.gap(asked.spelled, compared, entry.demonstrations)
            graded = self.graded.measure(asked.graded, entry.demonstrations)
            classes = self.classifier.of_coefficients(asked.padded[SHORT], entry.demonstrations)
        finite = np.isfinite(graded.gradient.decision).all()
        signs = {
            "binary": sign_errors(measured[max(measured)], standard_scenario()),
            "graded": sign_errors(graded, self.graded.programs.scenario) if finite else None,
        }
        return Row(name, entry, tuple(measured), list(measured.values()), signs, gap, classes)


def _compared() -> tuple[_Laws, _Laws]:
    """Laws of short answers, with the binary verifier and with the graded one."""
    binary = _Programs.of(standard_scenario(), SHORT)
    graded = binary.on(standard_scenario(graded=True))
    return _Laws.of(binary, COMPARED, COMPARED_NODES), _Laws.of(graded, COMPARED, COMPARED_NODES)


def _ask(objective: Objective, logp_BxS: jax.Array, traj: Trajectories) -> Ask:
    return compile_quickly(partial(coefficients, objective), logp_BxS, traj)


def _same(one: Objective, other: Objective) -> bool:
    """Whether two are one function with the same options."""
    partials = isinstance(one, partial) and isinstance(other, partial)
    return partials and (one.func, one.keywords) == (other.func, other.keywords)


def _measure(name: str, entry: Entry, asked: _Asked, laws: _Laws) -> Measured:
    with exact():
        found = laws.measure(asked.padded[laws.programs.like.longest], entry.demonstrations)
    finite = all(np.isfinite(g).all() for g in jax.tree.leaves(found.gradient))
    require(finite, f"gradient of {name} at L = {laws.length}", "numbers that are not finite", "finite numbers")
    return found


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
    new = [n for n in rows if n not in repeats]
    total, done = len(new) * (len(lengths) + 2) + len(repeats), 0
    with exact():
        binary, graded = compared = _compared()
        # A loss that fits no law is refused here, before the rest is compiled.
        objectives = {n: (binary.objective(entry), graded.objective(entry)) for n, entry in rows.items()}
        atlas = _Atlas.of(compared, lengths[-1])
    with ThreadPoolExecutor(THREADS) as pool:

        def each(names: Sequence[str], call: Callable[[str], Any]) -> dict[str, Any]:
            nonlocal done
            out = {}
            for name, job in [(n, pool.submit(call, n)) for n in names]:
                out[name] = job.result()
                done += 1
                if progress is not None:
                    progress(done, total)
            return out

        def at(length: int, asked: Mapping[str, _Asked]) -> dict[str, Measured]:
            laws = atlas.at(length)  # is freed before the next ones are made
            return each(new, lambda n: _measure(n, rows[n], asked[n], laws))

        try:
            asked = each(new, lambda n: atlas.compile(*objectives[n]))
            measured = {length: at(length, asked) for length in lengths}
            found = each(
                new, lambda n: atlas.row(n, rows[n], {length: m[n] for length, m in measured.items()}, asked[n])
            )
            classes = each(list(repeats), lambda n: atlas.classes(objectives[n][0], rows[n]))  # off-policy they differ
            for n, original in repeats.items():
                found[n] = replace(found[original], name=n, entry=rows[n], classes=classes[n])
            return [found[n] for n in rows]
        finally:
            pool.shutdown(cancel_futures=True)
