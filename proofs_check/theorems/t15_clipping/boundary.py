"""Which ratio a growing gradient step clips first: the decision's or a token's; and what a sequence ratio does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsjax.numerics import exact
from dsjax.policies import Params, PositionwisePolicy, log_probs
from dsjax.trajectories import Trajectories
from proofs_check.boundary import line_and_markers, plain, run
from proofs_check.theorems.t15_clipping.numeric import CLIP, ascent, coefficients_after

TITLE = "Which ratio a growing gradient step clips first: the decision's or a token's"

# One trajectory (an answer of L tokens, then STOP) and a step on it. x = 1 - pi of what was drawn; the other symbols of
# a token are equally likely.
VOCABULARIES = (2, 8, 1000)
SIGNS = (1.0, -1.0)
TOKENS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95)  # x_s
FINE = np.geomspace(0.01, 0.99, 120)
LENGTHS = (1, 8, 64)
PEAKED, UNDECIDED = 0.1, 0.5  # x_s, x_d of the third panel
WIDE = 8  # V of the third panel
STEPS = (1e-4, 1e4)  # of the search: what no step in it clips is never clipped
HALVINGS = 50  # log(1e8) 2^-50 < 2e-14


def log_ratio(x: np.ndarray | float, step: np.ndarray | float, vocabulary: int) -> Any:
    """log rho of a symbol drawn with probability 1 - x after a step (step = g A) on it, the others equally likely."""
    stretch = vocabulary / (vocabulary - 1)
    return -np.log1p(x * np.expm1(-stretch * step * x))


def least_step(x: float, sign: float, vocabulary: int, copies: int = 1) -> float:
    """Least g that clips the ratio (its `copies`-th root for a sequence in which nothing else moves); inf if none."""
    edge = copies * (np.log1p(CLIP) if sign > 0 else np.log1p(-CLIP))
    inside = 1 + np.expm1(-edge) / x
    return float(abs(np.log(inside)) * (vocabulary - 1) / (vocabulary * x)) if inside > 0 else float("inf")


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function changes sign, to rounding."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def boundary(x_s: float, sign: float, vocabulary: int) -> float | None:
    """x_d at which decision and token are clipped by the same step, in closed form; None if the token never is."""
    g = least_step(x_s, sign, vocabulary)
    if not np.isfinite(g):
        return None
    # A decision's least step falls as x_d grows; below 1 - 1/(1 + eps) it is infinite for A > 0.
    return root(lambda x_d: g - least_step(x_d, sign, 2), 1e-9, 1 - 1e-12)


def all_moved(length: int, sign: float) -> float:
    """Least g at which the geometric mean of the third panel's whole sequence is clipped."""
    edge = (length + 1) * abs(np.log1p(sign * CLIP))

    def excess(g: float) -> float:
        total = length * log_ratio(PEAKED, sign * g, WIDE) + log_ratio(UNDECIDED, sign * g, 2)
        return float(sign * total - edge)

    return root(excess, 0.0, 1e3)


def group(length: int, sign: jax.Array) -> Trajectories:
    """A sampled group of two: the trajectory of the step, and one of the opposite reward."""
    none = jnp.zeros(2, jnp.int32)
    return Trajectories.from_rounds(
        prompt=none[:, None],
        answers=jnp.zeros((2, 1, length), jnp.int32),
        stop_round=none,
        horizon=2,
        reward=jnp.asarray([0.5 + sign / 2, 0.5 - sign / 2]),
        weight=jnp.full(2, 0.5),
        group=none,
        num_groups=1,
    )


def parameters(x_s: jax.Array, x_d: jax.Array, length: int, vocabulary: int) -> Params:
    """Logits of a position-wise policy whose decider is the same after every answer."""
    others = jnp.broadcast_to(jnp.log(x_s / (vocabulary - 1)), (vocabulary - 1,))
    token_V = jnp.concatenate([jnp.log1p(-x_s)[None], others])
    return {
        "sample": jnp.broadcast_to(token_V, (1, length, vocabulary)),
        "decision": jnp.stack([jnp.log1p(-x_d), jnp.log(x_d)])[None, None],
    }


TOKEN, DECISION, SEQUENCE = range(3)  # what is dropped: the first token or the decision (GRPO), the geometric mean


class Library:
    """What the library's clipped objectives drop after a gradient step on the first trajectory."""

    def __init__(self, length: int, vocabulary: int):
        self.length, self.vocabulary = length, vocabulary
        self.policy = PositionwisePolicy(1, vocabulary, length, reads=0)

    def dropped(
        self, sign: jax.Array, x_s: jax.Array, x_d: jax.Array, g: jax.Array, sampler_too: float | jax.Array = 1.0
    ) -> jax.Array:
        """bool[3]: `TOKEN`, `DECISION`, `SEQUENCE`; `sampler_too` = 0 leaves the sampler where it is."""
        params = parameters(x_s, x_d, self.length, self.vocabulary)
        traj = group(self.length, sign)
        batch = traj.replace(old_logp=log_probs(self.policy, params, traj))
        gradients = ascent(self.policy, params, batch, jnp.asarray(0), sign)
        new = jax.tree.map(lambda p, s, d: p + g * (sampler_too * s + d), params, gradients.sample, gradients.decision)
        after = coefficients_after(self.policy, new, batch)
        return jnp.stack([after.token[0], after.token[self.length], after.geometric[0]]) == 0

    def least_step(
        self,
        what: int | jax.Array,
        sign: jax.Array,
        x_s: jax.Array,
        x_d: jax.Array,
        sampler_too: float | jax.Array = 1.0,
    ) -> jax.Array:
        """Least g that drops it, by halving on a logarithmic scale; inf if nothing in `STEPS` does."""

        def drops(log_g: jax.Array) -> jax.Array:
            return self.dropped(sign, x_s, x_d, jnp.exp(log_g), sampler_too)[what]

        top = jnp.log(jnp.asarray(STEPS[1]))
        found = halve(drops, jnp.log(jnp.asarray(STEPS[0])), top)
        return jnp.where(drops(top), jnp.exp(found), jnp.inf)

    def same_step(self, sign: jax.Array, x_s: jax.Array) -> jax.Array:
        """x_d of the decision that is dropped from the same step on as the token; NaN if the token never is."""
        g = self.least_step(TOKEN, sign, x_s, jnp.asarray(0.5))
        reached = jnp.where(jnp.isfinite(g), g, 1.0)
        ends = jnp.asarray(1e-9), jnp.asarray(1 - 1e-12)
        x_d = halve(lambda x: self.dropped(sign, x_s, x, reached)[DECISION], *ends)
        return jnp.where(jnp.isfinite(g), x_d, jnp.nan)


def halve(drops: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """Where a condition that holds from some point on begins to hold."""

    def half(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (ends[0] + ends[1]) / 2
        there = drops(middle)
        return jnp.where(there, ends[0], middle), jnp.where(there, middle, ends[1])

    low, high = jax.lax.fori_loop(0, HALVINGS, half, (low, high))
    return (low + high) / 2


def measured_boundary(vocabulary: int, tokens: tuple[float, ...]) -> list[dict[str, Any]]:
    """Rows {x_s, sign, vocabulary, measured, closed}: x_d at the boundary; None where the token is never clipped."""
    library = Library(1, vocabulary)
    points = [(sign, x_s) for sign in SIGNS for x_s in tokens]
    found = run(jax.vmap(library.same_step), *jnp.asarray(points).T).tolist()
    return [
        {
            "x_s": x_s,
            "sign": sign,
            "vocabulary": vocabulary,
            "measured": x_d if np.isfinite(x_d) else None,
            "closed": boundary(x_s, sign, vocabulary),
        }
        for (sign, x_s), x_d in zip(points, found, strict=True)
    ]


def stated_steps(length: int, sign: float = -1.0) -> dict[str, float]:
    """Least step of the third panel's ratios at one length, in closed form."""
    return {
        "token": least_step(PEAKED, sign, WIDE),
        "decision": least_step(UNDECIDED, sign, 2),
        "sequence": all_moved(length, sign),
        "sequence, decision alone": least_step(UNDECIDED, sign, 2, copies=length + 1),
    }


def measured_steps(length: int, sign: float = -1.0) -> dict[str, float]:
    """The same, by the library."""
    library = Library(length, WIDE)
    x_s, x_d, A = jnp.asarray(PEAKED), jnp.asarray(UNDECIDED), jnp.asarray(sign)

    def one(what: jax.Array, sampler_too: jax.Array) -> jax.Array:
        return library.least_step(what, A, x_s, x_d, sampler_too)

    what = jnp.asarray([TOKEN, DECISION, SEQUENCE, SEQUENCE])
    found = run(jax.vmap(one), what, jnp.asarray([1.0, 1.0, 1.0, 0.0])).tolist()
    return dict(zip(stated_steps(length, sign), found, strict=True))


def measure() -> dict[str, Any]:
    """The boundary for both signs and several vocabularies, and least steps against length."""
    with exact():
        rows = [row for V in VOCABULARIES for row in measured_boundary(V, TOKENS)]
        steps = [{"length": length, **measured_steps(length)} for length in LENGTHS]
    stated = [{"length": length, **stated_steps(length)} for length in range(LENGTHS[0], LENGTHS[-1] + 1)]
    # Both or neither: a token that one side says is never clipped and the other does is an error of 1.
    errors = [
        1.0 if (row["measured"] is None) != (row["closed"] is None) else abs(row["measured"] / row["closed"] - 1)
        for row in rows
        if row["measured"] is not None or row["closed"] is not None
    ]
    errors += [abs(s[name] / g - 1) for s in steps for name, g in stated_steps(s["length"]).items()]
    lines = [
        {"sign": sign, "vocabulary": V, "x_d": [boundary(float(x), sign, V) for x in FINE]}
        for sign in SIGNS
        for V in VOCABULARIES
    ]
    least = min(row["measured"] / row["x_s"] for row in rows if row["measured"] is not None)
    diluted = steps[-1]["sequence, decision alone"] / steps[-1]["decision"]
    return {
        "summary": (
            "A decision is clipped before a token whenever it is at least as undecided (1 - pi larger), and down to "
            f"{least:.2f} of the token's 1 - pi where the token has many alternatives; a more peaked decision is "
            "clipped later. A geometric-mean ratio that only the decision moves needs a step "
            f"{diluted:.0f} times as large at L = {LENGTHS[-1]}."
        ),
        "worst_error": max(errors),
        "rows": rows,
        "x_s": FINE.tolist(),
        "lines": lines,
        "steps": steps,
        "stated_steps": stated,
    }


LOOKS: dict[int, dict[str, Any]] = {
    2: {"color": "#000000", "marker": "o", "linestyle": "-"},
    8: {"color": "#0072B2", "marker": "s", "linestyle": (0, (5, 2))},
    1000: {"color": "#D55E00", "marker": "^", "linestyle": (0, (1, 1.3))},
}
STEP_LOOKS: dict[str, dict[str, Any]] = {
    "token": {"color": "#0072B2", "marker": "s", "linestyle": (0, (5, 2))},
    "decision": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "sequence": {"color": "#009E73", "marker": "D", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
    "sequence, decision alone": {"color": "#D55E00", "marker": "^", "linestyle": (0, (1, 1.3))},
}
STEP_NAMES = {
    "token": f"token's own ratio, 1 - pi = {PEAKED}, V = {WIDE}",
    "decision": f"decision's own ratio, 1 - pi = {UNDECIDED}",
    "sequence": "geometric mean, all tokens move",
    "sequence, decision alone": "geometric mean, decision alone moves",
}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left, middle: who is clipped first. Right: least step against length. Lines: closed form; markers: measured."""
    *maps, right = fig.subplots(1, 3)
    titles = {1.0: "A > 0: ratio reaches 1 + eps", -1.0: "A < 0: ratio reaches 1 - eps"}
    for ax, sign in zip(maps, SIGNS, strict=True):
        for line in data["lines"]:
            if line["sign"] != sign:
                continue
            V = line["vocabulary"]
            x_d = [np.nan if x is None else x for x in line["x_d"]]
            rows = [r for r in data["rows"] if r["sign"] == sign and r["vocabulary"] == V and r["measured"] is not None]
            xs, ys = [r["x_s"] for r in rows], [r["measured"] for r in rows]
            line_and_markers(ax, LOOKS[V], (data["x_s"], x_d), (xs, ys))
        ax.set(xscale="log", yscale="log", xlim=(0.02, 1), ylim=(0.02, 1))
        ax.set_xlabel("1 - pi of the token")
        ax.set_title(titles[sign], fontsize="medium")
        for axis in (ax.xaxis, ax.yaxis):
            plain(axis, (0.02, 0.05, 0.1, 0.2, 0.5, 1))
        ax.text(0.05, 0.94, "decision clipped first", transform=ax.transAxes, va="top", fontsize="small")
        ax.text(0.95, 0.06, "token\nclipped first", transform=ax.transAxes, ha="right", fontsize="small")
    maps[0].set_ylabel("1 - pi of the decision")
    never = 1 - 1 / (1 + CLIP)
    maps[0].fill_between([0.02, never], 0.02, never, color="0.88", zorder=0)
    maps[0].text(0.03, 0.05, "neither\never is", fontsize="small")
    lengths = [s["length"] for s in data["steps"]]
    for name, look in STEP_LOOKS.items():
        line = tuple(zip(*((s["length"], s[name]) for s in data["stated_steps"]), strict=True))
        line_and_markers(right, look, line, (lengths, [s[name] for s in data["steps"]]))
    right.set(xscale="log", yscale="log", xlabel="answer length L (tokens)")
    right.set_ylabel("least step g that clips (logits per unit of A)")
    right.set_title("A < 0, one round", fontsize="medium")
    plain(right.xaxis, tuple(float(x) for x in lengths))
    plain(right.yaxis, (0.2, 0.5, 1, 2, 5, 10, 20))
    look: dict[str, Any] = {"markersize": 5, "markerfacecolor": "none"}
    handles = [Line2D([], [], label=f"boundary, V = {V} symbols", **look, **LOOKS[V]) for V in VOCABULARIES]
    handles += [Line2D([], [], label=STEP_NAMES[name], **look, **style) for name, style in STEP_LOOKS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
