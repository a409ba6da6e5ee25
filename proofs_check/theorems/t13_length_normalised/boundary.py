"""Where dividing by the response length turns a decision: the grade at which the push on STOP changes sign."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dsjax.attribution import component_gradients
from dsjax.numerics import exact, quick_options
from dsjax.objectives import Objective, reinforce
from dsjax.policies import SaturatedPolicy
from dsjax.process import DecisionSamplingProcess
from dsjax.trajectories import STOP
from proofs_check.boundary import turning_point
from proofs_check.theorems.t13_length_normalised.numeric import by_length

TITLE = "The grade worth keeping when the loss is divided by the response length"

# One prompt, answers drawn uniformly and without memory, a decider that stops with one probability everywhere. One
# answer has grade r, all others the same grade, chosen so that going on is worth V: then R does not depend on tau.
MAP_LENGTH, MAP_BASELINE = 4, 0.5
VALUES = tuple(round(0.05 * i, 2) for i in range(2, 19))  # V of the map
GRADES = tuple(round(0.025 + 0.05 * i, 3) for i in range(20))  # r of the map, never on the diagonal
VALUE = 0.6  # V of the other two panels
BASELINES = (0.0, 0.5, 1.0)
LENGTHS = (1, 2, 3, 4, 5, 6)
ROUNDS = (2, 3, 4, 5, 6)
STOPS = (0.8, 0.5, 0.2)
INSIDE, OUTSIDE = (0.8, 0.725), (0.8, 0.575)  # (V, r): one instance on each side of the threshold


def shrinkage(length: int, rounds: int, stop: float) -> float:
    """E[n_1/n_tau | RESAMPLE in round 1]: n_t = t (L+1) tokens, one less at t = T; tau - 1 is geometric, cut at T."""
    n = [t * (length + 1) for t in range(1, rounds)] + [rounds * (length + 1) - 1]
    law = [stop * (1 - stop) ** (t - 2) for t in range(2, rounds)] + [(1 - stop) ** (rounds - 2)]
    return sum(p * n[0] / m for p, m in zip(law, n[1:], strict=True))


def closed_form(value: float, baseline: float, length: int, rounds: int = 2, stop: float = 0.5) -> float:
    """The grade above which STOP is pushed up, V - D = b + (V - b) E[n_1/n_tau]."""
    return baseline + (value - baseline) * shrinkage(length, rounds, stop)


class Push(NamedTuple):
    """Gradient on the STOP logit of the graded answer in round 1."""

    divided: float  # of (R - b)/|w|
    reward: float  # of R


@cache
def _program(length: int, rounds: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    policy = SaturatedPolicy(1, 2, length, rounds, "full")
    shapes = policy.shapes()

    def gradients(
        grade: jax.Array, value: jax.Array, baseline: jax.Array, stop: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        answers = 2**length
        other = (value * answers - grade) / (answers - 1)
        process = DecisionSamplingProcess.create(
            prompt_law=jnp.ones(1),
            reward_table=jnp.full((1, answers), other).at[0, 0].set(grade),
            vocabulary=2,
            length=length,
            rounds=rounds,
            history="full",
        )
        decide = jnp.broadcast_to(jnp.log(jnp.stack([stop, 1.0 - stop])), shapes["decision"])
        params = {"sample": jnp.zeros(shapes["sample"]), "decision": decide}
        traj = process.enumerate_trajectories(policy, params, static=True)

        def on_stop(objective: Objective, shift: jax.Array | float) -> jax.Array:
            shifted = traj.replace(reward=traj.reward - shift)
            return component_gradients(policy, params, shifted, objective).decision["decision"][0, 0, 0, STOP]

        return on_stop(by_length, baseline), on_stop(reinforce, 0.0)

    return jax.jit(gradients, compiler_options=quick_options())


def push(grade: float, value: float, baseline: float, length: int, rounds: int = 2, stop: float = 0.5) -> Push:
    """The library's exact gradients; call it in a float64 scope."""
    numbers = (np.asarray(x, float) for x in (grade, value, baseline, stop))
    divided, reward = _program(length, rounds)(*numbers)
    return Push(float(divided), float(reward))


def measured_threshold(value: float, baseline: float, length: int, rounds: int = 2, stop: float = 0.5) -> float | None:
    """Grade at which the measured push changes sign; at a given V the push is affine in the grade."""
    return turning_point(lambda grade: push(grade, value, baseline, length, rounds, stop).divided, 0.3, 0.9)


def _row(**of: float) -> dict[str, Any]:
    arguments = {"rounds": 2, "stop": 0.5, **of}
    length, rounds = int(arguments.pop("length")), int(arguments.pop("rounds"))
    setting: dict[str, Any] = {"value": VALUE, **arguments, "length": length, "rounds": rounds}
    return {**setting, "closed": closed_form(**setting), "measured": measured_threshold(**setting)}


def _at(value: float, grade: float) -> dict[str, float]:
    divided, reward = push(grade, value, MAP_BASELINE, MAP_LENGTH)
    return {"value": value, "grade": grade, "divided": divided, "reward": reward}


def measure() -> dict[str, Any]:
    """Signs on a lattice of (V, r); thresholds by length and by number of rounds."""
    with exact():
        lattice = [_at(value, grade) for value in VALUES for grade in GRADES]
        by_length = [_row(length=length, baseline=b) for b in BASELINES for length in LENGTHS]
        by_rounds = [_row(length=1, baseline=0.0, rounds=T, stop=s) for s in STOPS for T in ROUNDS]
        inside, outside = _at(*INSIDE), _at(*OUTSIDE)
    rows = by_length + by_rounds
    errors = [abs(row["measured"] - row["closed"]) for row in rows if row["measured"] is not None]
    flips = [row["divided"] * row["reward"] < 0 for row in lattice]
    edges = [(row["value"], closed_form(row["value"], MAP_BASELINE, MAP_LENGTH)) for row in lattice]
    stated = [min(e) < row["grade"] < max(e) for row, e in zip(lattice, edges, strict=True)]
    wrong_side = sum(f != s for f, s in zip(flips, stated, strict=True))
    return {
        "summary": (
            f"Dividing by the response length moves the grade worth keeping from V to b + (V - b) E[n_1/n_tau]: "
            f"{len(errors)} of {len(rows)} thresholds measured, {wrong_side} of {len(lattice)} lattice points on the "
            f"wrong side. At L = {MAP_LENGTH}, b = {MAP_BASELINE}, V = {INSIDE[0]} an answer graded {INSIDE[1]} has "
            f"gradient {inside['reward']:.2g} on STOP for R and {inside['divided']:.2g} for (R - b)/|w|; one graded "
            f"{OUTSIDE[1]} has {outside['reward']:.2g} and {outside['divided']:.2g}."
        ),
        "worst_error": max(errors) if len(errors) == len(rows) else None,
        "lattice_points_on_the_wrong_side": wrong_side,
        "map": {"length": MAP_LENGTH, "baseline": MAP_BASELINE, "shrinkage": shrinkage(MAP_LENGTH, 2, 0.5)},
        "inside": inside,
        "outside": outside,
        "lattice": lattice,
        "by_length": by_length,
        "by_rounds": by_rounds,
    }


MARKERS = ("o", "s", "^")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
COLOURS = ("#0072B2", "#D55E00", "#009E73")


def _draw_map(data: dict[str, Any], fig: Figure, ax: Any) -> None:
    setting = data["map"]
    b, k = setting["baseline"], setting["shrinkage"]
    V = np.array([0.0, b, 1.0])
    edge = b + (V - b) * k
    ax.fill_between(V, V, edge, color="0.86", zorder=0)
    ax.plot(V, V, color="black", linestyle=DASHES[0], linewidth=1.3)
    ax.plot(V, edge, color="black", linestyle=DASHES[1], linewidth=1.3)
    for flipped, look in ((False, {"marker": ".", "color": "0.55", "markersize": 2.5}), (True, FLIPPED)):
        points = [(x["value"], x["grade"]) for x in data["lattice"] if (x["divided"] * x["reward"] < 0) == flipped]
        ax.plot(*zip(*points, strict=True), linestyle="none", zorder=3, **look)
    for name, marker in (("inside", "D"), ("outside", "s")):
        point = data[name]
        look: dict[str, Any] = {"marker": marker, "color": "black", "markerfacecolor": "none", "markersize": 9}
        ax.plot(point["value"], point["grade"], linestyle="none", zorder=4, **look)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="V, value of going on (reward)", ylabel="r, grade of the answer (reward)")
    ax.set_title(f"L = {setting['length']}, T = 2, b = {b:g}")
    handles = [
        Line2D([], [], color="black", linestyle=DASHES[0], label="threshold of R: V"),
        Line2D([], [], color="black", linestyle=DASHES[1], label="of (R - b)/|w|: closed form"),
        Patch(facecolor="0.86", label="signs differ, closed form"),
        Line2D([], [], linestyle="none", label="signs differ, measured", **FLIPPED),
        Line2D([], [], linestyle="none", marker=".", color="0.55", markersize=4, label="signs agree, measured"),
        Line2D([], [], linestyle="none", marker="D", color="black", markerfacecolor="none", label="instance inside"),
        Line2D([], [], linestyle="none", marker="s", color="black", markerfacecolor="none", label="instance outside"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)


FLIPPED: dict[str, Any] = {"marker": "x", "color": "#D55E00", "markersize": 4.5}


def _draw_thresholds(ax: Any, rows: list[dict[str, Any]], key: str, line: str, label: str) -> None:
    """Lines: closed form. Markers: measured. One of each for each value of `line`."""
    for i, value in enumerate(dict.fromkeys(row[line] for row in rows)):
        chosen = [row for row in rows if row[line] == value]
        x = [row[key] for row in chosen]
        ax.plot(x, [row["closed"] for row in chosen], color=COLOURS[i], linestyle=DASHES[i], linewidth=1.3)
        found = [(row[key], row["measured"]) for row in chosen if row["measured"] is not None]
        look: dict[str, Any] = {"marker": MARKERS[i], "color": COLOURS[i], "markerfacecolor": "white"}
        ax.plot(*zip(*found, strict=True), linestyle="none", **look)
        ax.plot([], [], linestyle=DASHES[i], label=f"{label} = {value:g}", **look)
    ax.axhline(rows[0]["value"], color="0.4", linewidth=1.0)
    ax.annotate("V", (1, rows[0]["value"]), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points")
    ax.set_xticks(sorted({row[key] for row in rows}))


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left: the region. Middle and right: the threshold by answer length and by number of rounds."""
    left, middle, right = fig.subplots(1, 3)
    _draw_map(data, fig, left)
    _draw_thresholds(middle, data["by_length"], "length", "baseline", "b")
    middle.set(xlabel="answer length L (tokens)", ylabel="threshold grade (reward)", title="T = 2", ylim=(0.2, 1.0))
    _draw_thresholds(right, data["by_rounds"], "rounds", "stop", "P(STOP)")
    right.set(xlabel="rounds T", ylabel="threshold grade (reward)", title="L = 1, b = 0", ylim=(0.0, 1.0))
    middle.legend(loc="upper left", title="lines: closed form")
    right.legend(loc="upper right", title="markers: measured")
