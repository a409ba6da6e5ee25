"""How much imitation of correctness labels loses, over what the decider knows and what going on is worth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsjax.evaluation import regret
from dsjax.numerics import exact
from dsjax.policies import SaturatedPolicy, log_probs
from dsjax.process import DecisionSamplingProcess
from proofs_check.boundary import run

TITLE = "What imitated correctness labels lose against reward, visit by visit"

# One prompt, a right and a wrong answer, two rounds. The first answer is right with probability q, a second one with
# probability V, and the decider reads neither: all that it knows at its one visit is q.
GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))
ATTEMPTS = ("imitator", "greedy")
FORMULAS = {"imitator": regret.of_imitation, "greedy": regret.of_greedy}


def returns(q: jax.Array, V: jax.Array, stop: jax.Array) -> jax.Array:
    """Exact J of the library's process when the decider stops with probability `stop`."""
    policy = SaturatedPolicy(1, 2, 1, 2, "full")
    process = DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=jnp.asarray([[1.0, 0.0]]), vocabulary=2, length=1, rounds=2, history="full"
    )
    shapes = policy.shapes()
    right = jnp.stack([q, V, V]).reshape(shapes["sample"][:-1])  # contexts: no history, then each first answer
    tiny = jnp.finfo(right.dtype).tiny

    def logits(p: jax.Array) -> jax.Array:
        return jnp.log(jnp.maximum(jnp.stack([p, 1 - p], -1), tiny))

    decision = jnp.broadcast_to(logits(stop), shapes["decision"])
    support = process.support(static=True)
    logp = log_probs(policy, {"sample": logits(right), "decision": decision}, support)
    return process.expected_return(process.tables(logp), support.reward)


def measured(q: np.ndarray, V: np.ndarray) -> dict[str, np.ndarray]:
    """f[N] each: the better of STOP and RESAMPLE, less each attempt; call it in a float64 scope."""

    def differences(q: jax.Array, V: jax.Array) -> tuple[jax.Array, ...]:
        one, zero = jnp.ones_like(q), jnp.zeros_like(q)
        best = jnp.maximum(returns(q, V, one), returns(q, V, zero))
        return best - returns(q, V, q), best - returns(q, V, (q > 0.5).astype(q.dtype))

    return dict(zip(ATTEMPTS, map(np.asarray, run(jax.vmap(differences), q, V)), strict=True))


def measure() -> dict[str, Any]:
    """Both regrets on a lattice of (q, V), measured and in closed form."""
    q, V = (x.ravel() for x in np.meshgrid(GRID, GRID))
    with exact():
        found = measured(q, V)
    closed = {name: formula(q, V) for name, formula in FORMULAS.items()}
    worst = max(float(np.abs(found[name] - closed[name]).max()) for name in ATTEMPTS)
    at = {name: int(np.argmax(found[name])) for name in ATTEMPTS}
    zero = [bool((np.abs(found["imitator"]) < 1e-12)[i] == (q[i] == V[i])) for i in range(len(q))]
    return {
        "summary": (
            "Regret per visit of a decider that stops with probability q = P(right | what it sees), where going on is "
            f"worth V: at most {found['imitator'][at['imitator']]:.3g} on the lattice, at q = "
            f"{q[at['imitator']]:g}, V = {V[at['imitator']]:g}, and zero only on the line q = V (and at q = 0 and 1, "
            f"its edges). Made greedy (STOP iff q > 1/2) it loses |q - V| between 1/2 and V: at most "
            f"{found['greedy'][at['greedy']]:.3g}, and nothing elsewhere."
        ),
        "worst_error": worst,
        "zero_only_where_q_is_V": all(zero),
        "q": q.tolist(),
        "V": V.tolist(),
        **{name: found[name].tolist() for name in ATTEMPTS},
    }


TITLES = {"imitator": "STOP with probability q", "greedy": "STOP iff q > 1/2"}


def draw(data: dict[str, Any], fig: Figure) -> None:
    """Shades: closed form. Numbers: measured, on every third point. Line: the threshold of reward, q = V."""
    axes = fig.subplots(1, 2, sharey=True)
    fine = np.linspace(0.0, 1.0, 201)
    q, V = np.meshgrid(fine, fine)
    images = []
    for ax, name in zip(axes, ATTEMPTS, strict=True):
        levels = np.linspace(0.0, 0.5, 11)
        images.append(ax.contourf(q, V, FORMULAS[name](q, V), levels=levels, cmap="Greys", vmin=0, vmax=0.8))
        ax.plot([0, 1], [0, 1], color="#D55E00", linewidth=1.5)
        for i in range(len(data["q"])):
            row, column = divmod(i, len(GRID))
            if row % 3 == 0 and column % 3 == 0:
                ax.text(data["q"][i], data["V"][i], f"{abs(data[name][i]):.2f}", ha="center", va="center", fontsize=7)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="q, P(right | what the decider sees)", title=TITLES[name])
    axes[0].set_ylabel("V, value of going on (reward)")
    fig.colorbar(images[0], ax=axes, label="regret per visit (reward), closed form")
    line = Line2D([], [], color="#D55E00", label="threshold of reward: STOP right of q = V; numbers: measured regret")
    fig.legend(handles=[line], loc="outside lower center")
