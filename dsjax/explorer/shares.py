"""The decision share of every objective as a closed form in the answer length (T4, T19, T20), stored for the page.

Of m = L - 1 unread tokens each adds the energy e_f to the sampler's part. In suitable units, which cancel in the share,
the rest of the gradient is affine in m, so the energies of its two parts are quadratic:

    share(m) = D(m) / (S(m) + D(m) + F m),  D(m) = d_0 + d_1 m + d_2 m^2,  S(m) alike,  F = 1 where e_f > 0, else 0

A share that is the same at all lengths is a number. Elsewhere the units are sqrt(e_f) where filler gets something, else
1/((L+1)(2L+1)), for what divides by the tokens of a trajectory. Where they do not make the rest affine (preference
losses) only the shares at the atlas' lengths are known.

    python -m dsjax.explorer.shares    measures the atlas and writes shares.json, in some minutes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dsjax.atlas.laws import on_policy, standard_scenario, structure
from dsjax.atlas.measure import Blocks, Measured, inverse_fisher, softmaxes, visits_of
from dsjax.atlas.rows import Row
from dsjax.attribution import share
from dsjax.explorer import SHARES
from dsjax.io import write_json
from dsjax.numerics import exact

AFFINE = 1e-10  # relative: sums of some hundred terms in float64 differ by less, other dependences by far more
ZERO = 1e-18  # of the energy of all tokens: what rounding leaves of a filler gradient that is 0


def closed_form(measured: Sequence[Measured], lengths: Sequence[int], demonstrations: bool) -> dict[str, Any] | None:
    """{"sample": [s_0, s_1, s_2], "decision": [d_0, d_1, d_2], "filler": F}, or None; call it in a float64 scope."""
    scenario = standard_scenario()
    law = softmaxes(scenario.policy)
    visits = visits_of(
        structure(scenario, scenario.demonstrator if demonstrations else on_policy(scenario), 2), scenario.num_prompts
    )

    def energies(a: Blocks, b: Blocks) -> tuple[float, float, float]:
        part = inverse_fisher(a, b, visits, law)
        return float(part.first), float(part.filler), float(part.decision)

    shares = np.asarray([share(np.asarray(x.energy_decision), np.asarray(x.energy_sample)) for x in measured])
    if np.ptp(shares) <= AFFINE:
        return constant(float(shares[0]))
    m = np.asarray(lengths, float) - 1
    filler = np.asarray([energies(x.gradient, x.gradient)[1] for x in measured])[m > 0]
    size = np.asarray([float(x.energy_sample + x.energy_decision) for x in measured])[m > 0]
    felt = bool((filler > ZERO * size).all())
    unit = np.concatenate([np.full((m == 0).sum(), np.nan), filler**-0.5]) if felt else (m + 2) * (2 * m + 3)
    known = [i for i in range(len(m)) if np.isfinite(unit[i])]
    rest = {i: jax.tree.map(lambda g, u=unit[i]: np.asarray(g) * u, measured[i].gradient) for i in known}
    first, last = known[0], known[-1]
    step = jax.tree.map(lambda a, b: (b - a) / (m[last] - m[first]), rest[first], rest[last])
    if _affine(rest[last], rest[first], jax.tree.map(np.zeros_like, step), 0.0):  # the slope is rounding dust
        step = jax.tree.map(np.zeros_like, step)
    start = jax.tree.map(lambda a, s: a - m[first] * s, rest[first], step)
    if not all(_affine(rest[i], start, step, m[i]) for i in known):
        return None
    pairs = [energies(*pair) for pair in ((start, start), (start, step), (step, step))]
    sample, decision = ([x[c] * k for x, k in zip(pairs, (1, 2, 1), strict=True)] for c in (0, 2))
    return {"sample": sample, "decision": decision, "filler": int(felt)}


def constant(share: float) -> dict[str, Any]:
    """The closed form of a share that does not depend on the length."""
    return {"sample": [1.0 - share, 0.0, 0.0], "decision": [share, 0.0, 0.0], "filler": 0}


def _affine(found: Blocks, start: Blocks, step: Blocks, m: float) -> bool:
    """Whether all but the filler's gradient is start + m step."""
    far = max(np.abs(x - a - m * b).max() for x, a, b in zip(*map(_read, (found, start, step)), strict=True))
    return bool(far <= AFFINE * max(np.abs(x).max() for x in _read(found)))


def _read(x: Blocks) -> tuple[Any, Any]:
    return x.first, x.decision


def stored(rows: Sequence[Row]) -> dict[str, Any]:
    """{objective: {"filler": class of T20, "shares": {L: share}, "form"}}."""
    with exact():
        return {
            row.name: {
                "filler": row.classes.filler,
                "shares": {str(n): x for n, x in row.shares.items()},
                "form": None
                if any(x is None for x in row.shares.values())
                else closed_form(row.measured, row.lengths, row.entry.demonstrations),
            }
            for row in rows
        }


if __name__ == "__main__":
    from dsjax.atlas.rows import compute

    write_json(SHARES, stored(compute()))
