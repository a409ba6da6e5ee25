"""What unread tokens leave of the gain of one common step, by kind of policy and by kind of step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsjax.attribution import gains, inner, natural_step
from dsjax.numerics import exact
from proofs_check import instances
from proofs_check.boundary import line_and_markers, plain, run
from proofs_check.instances import Shape
from proofs_check.theorems.t21_shared_trunk.numeric import (
    BATCH,
    Drawn,
    Filled,
    Law,
    Setting,
    Unread,
    with_filler,
)

TITLE = "Gain of a step that both components share, against unread tokens"

# Processes with 7 free logits, 3 of the sampler and 4 of the decider; and a transformer where logits are many.
SMALL = Shape(rounds=2, length=2, vocabulary=2, history="none")
FEW, CONFLICT = "shared, few", "shared, few, in conflict"
KINDS = {
    "separate": (SMALL, 4),
    "shared, many": (replace(SMALL, shared=8), 4),
    FEW: (replace(SMALL, shared=3), 4),
    CONFLICT: (replace(SMALL, shared=3), 0),
    "transformer": (Shape(rounds=2, length=2, vocabulary=3, prompts=2, network=True), 4),
}  # shape, and number of the random instance
# Amounts of filler, one of them 0. Not more: what a network's Fisher matrix has of small eigenvalues would be cut off.
FINE = tuple(float(m) for m in np.round(np.geomspace(1, 257, 25) - 1, 6))
SHOWN = 64  # of which the summary speaks
ENUMERATED = {"transformer": (1,)}  # amounts with which the whole process is enumerated
OTHERWISE = (1, 2)


class Found(NamedTuple):
    """What is measured of one kind of policy: natural parts by amount, enumerated parts, other steps."""

    natural: Any  # (f[M], f[M]): F + m Phi
    enumerated: Any  # [(f[], f[])] of the library's gradients and Fisher matrices of the longer process
    adam: Any  # (f[M], f[M])
    sign: Any  # f[]: |G|_1
    parameters: int


def _measure(shape: Shape, number: int, amounts: tuple[int, ...]) -> Found:
    def program(key: jax.Array) -> Any:
        instance = instances.draw(key, shape)
        s, m_M = Setting(Drawn(instance, Filled(shape, 0))), jnp.asarray((*FINE, SHOWN), float)
        longer = []
        for m in amounts:
            law = Law(with_filler(instance.process, m), Unread(instance.policy, m), instance.params)
            F_s, F_d = law.fishers
            longer.append(gains(law.gradients, natural_step(law.gradients.total, F_s + F_d)))
        G = s.short.gradients
        sign = inner(G.total, jax.tree.map(jnp.sign, G.total))
        at = jnp.asarray(amounts, float)
        return s.natural(m_M), (s.natural(at), longer), s.adam(m_M), sign, s.Phi

    natural, (closed, longer), adam, sign, Phi = run(program, jax.random.key(number))
    enumerated = [
        {"filler": m, "closed": [float(x[i]) for x in closed], "measured": [float(x) for x in longer[i]]}
        for i, m in enumerate(amounts)
    ]
    return Found(np.asarray(natural), enumerated, np.asarray(adam), float(sign), Phi.shape[0])


def measure() -> dict[str, Any]:
    """Parts of the gain against filler, relative to those without."""
    with exact():
        found = {kind: _measure(*of, ENUMERATED.get(kind, OTHERWISE)) for kind, of in KINDS.items()}
    kinds, errors = {}, []
    for kind, f in found.items():
        start = f.natural[:, 0]
        kinds[kind] = {
            "parameters": f.parameters,
            "free": list(Filled(KINDS[kind][0], 0).ranks),
            "at_start": start.tolist(),
            "parts": (f.natural[:, :-1] / start[:, None]).tolist(),
            "shown": (f.natural[:, -1] / start).tolist(),
            "share": (f.natural[1, :-1] / f.natural[:, :-1].sum(0)).tolist(),
            "enumerated": [{"filler": e["filler"], "parts": (e["measured"] / start).tolist()} for e in f.enumerated],
        }
        errors += [
            abs(x - y) / max(1.0, abs(y)) for e in f.enumerated for x, y in zip(e["measured"], e["closed"], strict=True)
        ]
    few = found[FEW]
    steps = {
        "natural": few.natural[:, :-1].sum(0) / few.natural[:, 0].sum(),
        "adam": few.adam[:, :-1].sum(0) / few.adam[:, 0].sum(),
        "sign": np.ones(len(FINE)),
    }
    return {
        "summary": (
            f"Of the natural step's gain through pi_d (through pi_sample) {SHOWN} unread tokens leave, by policy: "
            + "; ".join(f"{kind} {row['shown'][1]:.0%} ({row['shown'][0]:.0%})" for kind, row in kinds.items())
            + ". The gradient is the same throughout. A part may rise where both components were in conflict."
        ),
        "worst_error": max(errors),
        "filler": list(FINE),
        "kinds": kinds,
        "steps": {name: np.asarray(x).tolist() for name, x in steps.items()},
    }


LOOKS: dict[str, dict[str, Any]] = {
    "separate": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "shared, many": {"color": "#009E73", "marker": "^", "linestyle": (0, (1, 1.3))},
    FEW: {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 2))},
    CONFLICT: {"color": "#E69F00", "marker": "D", "linestyle": (0, (3, 1.5))},
    "transformer": {"color": "#000000", "marker": "v", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
}
STEPS: dict[str, dict[str, Any]] = {
    "natural": {"color": "#D55E00", "linestyle": (0, (5, 2))},
    "adam": {"color": "#CC79A7", "linestyle": (0, (3, 1, 1, 1))},
    "sign": {"color": "#56B4E9", "linestyle": "-"},
}
STEP_NAMES = {
    "natural": "natural step",
    "adam": f"Adam, batches of {BATCH} (noise counted)",
    "sign": "sign step",
}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Left and middle: parts of the natural step's gain. Right: three kinds of step. Markers: enumerated."""
    axes = fig.subplots(1, 3)
    x = 1 + np.asarray(data["filler"])
    for ax, part, name in zip(axes, (1, 0), ("pi_d", "pi_sample"), strict=False):
        for kind, row in data["kinds"].items():
            look = LOOKS[kind]
            points = [1 + e["filler"] for e in row["enumerated"]], [e["parts"][part] for e in row["enumerated"]]
            line_and_markers(ax, look, (x, row["parts"][part]), points)
        ax.set_title(f"natural step: part of {name}", fontsize="medium")
        ax.set(ylabel="G_c . x, relative to no filler")
    for name, look in STEPS.items():
        axes[2].plot(x, data["steps"][name], **look)
    axes[2].set_title("three steps on 3 shared parameters", fontsize="medium")
    axes[2].set(ylabel="G . x, relative to no filler")
    for ax in axes:
        ax.set(xscale="log", xlabel="1 + m (unread tokens an answer)")
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        plain(ax.xaxis)
    kinds = data["kinds"]
    handles = [
        Line2D(
            [],
            [],
            label=f"{kind}: {kinds[kind]['parameters']} parameters, {sum(kinds[kind]['free'])} free logits",
            markersize=5,
            markerfacecolor="none",
            **LOOKS[kind],
        )
        for kind in kinds
    ]
    handles += [Line2D([], [], label=STEP_NAMES[name], **look) for name, look in STEPS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
