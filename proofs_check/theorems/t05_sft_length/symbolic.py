"""T5, symbolically: gradient and energy of token-mean cross-entropy on demonstrations from any law."""

from __future__ import annotations

from functools import cache
from math import prod

from proofs_check.symbolic.process import (
    DECIDE,
    SAMPLE,
    Context,
    Generic,
    Model,
    Shape,
    Vector,
    difference,
    generic,
)
from proofs_check.symbolic.proof import Element, Proofs

SHAPES = (Shape(2, 2, 2), Shape(2, 1, 3), Shape(3, 1, 2, prompts=2, history="none"))
LONG = Shape(2, 3, 2, history="none")
SYMBOLS = "all probabilities of pi, one mass per demonstrated trajectory"
SHARE = "share = omega^2 delta k_d/(L k_s + omega^2 delta k_d); omega^2 = L gives back the share at L = 1"
WEIGHTS = "k_s, k_d, decision weight omega, one mass per demonstrated trajectory"
PROOFS = Proofs("T5")


@cache
def demonstrated(shape: Shape) -> tuple[Generic, list[Element]]:
    """Free policy, and a free mass for each trajectory: any law nu, up to a factor that cancels with N."""
    size = len(generic(shape).process.trajectories)
    found = generic(shape, extra=[f"nu_{i}" for i in range(size)])
    return found, [found.symbol[f"nu_{i}"] for i in range(size)]


def tokens(counts: dict[Context, list[Element]], component: str | None = None) -> Element:
    """N_c, or N: expected number of tokens."""
    return sum(sum(row) for x, row in counts.items() if component in (None, x.component))


def stated(model: Model, counts: dict[Context, list[Element]]) -> Vector:
    """N times the gradient: n(x) (nu(u|x) - pi(u|x))."""
    return {(x, u): counts[x][u] - sum(counts[x]) * model.policy[x][u] for x, u in model.process.logits}


@PROOFS.identity(
    "N grad = n(x) (nu - pi); F x = grad under nu's contexts; N^2 E = n(x) chi2(nu || pi), context by context",
    SYMBOLS,
    *SHAPES,
    control="Fisher matrix under the policy's contexts",
    own_contexts=True,
)
def energy(shape: Shape, *, own_contexts: bool = False) -> list[Element]:
    """Gradient, and energy = sum_x n(x) chi2 / N^2, context by context and free of denominators.

    With D = prod_v pi_v, x_u = (nu_u - pi_u) / pi_u solves F x = g; times n D: X_u = g_u prod_(v != u) pi_v, where
    g = n (nu - pi) is N times the gradient. Then F X = n D g and X . g = n^2 D chi2, so E = n chi2.
    `own_contexts`: the Fisher matrix under the policy's own contexts.
    """
    (process, model, _, _), nu = demonstrated(shape)
    counts = model.counts(nu)
    g = model.gradient(lambda i, d: 1, nu)  # cross-entropy: coefficient 1 (times 1/N) on every token
    residuals = difference(g, stated(model, counts))
    metric = model.counts() if own_contexts else counts

    def others(c: Context, u: int) -> Element:
        return prod(p for v, p in enumerate(model.policy[c]) if v != u)

    X: Vector = {(c, u): g[c, u] * others(c, u) for c, u in process.logits}
    solved = model.fisher_times(X, metric)
    for c in process.contexts:
        n, D = sum(counts[c]), prod(model.policy[c])
        residuals += [solved[c, u] - n * D * g[c, u] for u in range(process.choices(c))]
        # n^2 D chi2 = sum_u (n_u - n pi_u)^2 D / pi_u
        chi2 = sum((counts[c][u] - n * p) ** 2 * others(c, u) for u, p in enumerate(model.policy[c]))
        residuals.append(sum(X[c, u] * g[c, u] for u in range(process.choices(c))) - chi2)
    return residuals


@PROOFS.identity(SHARE, WEIGHTS, LONG, control="energy linear in the decision weight", weight_power=1)
@PROOFS.identity(SHARE, WEIGHTS, SHAPES[0], control="forced stop counted as a decision (delta = 1)", all_decide=True)
def share(shape: Shape, *, all_decide: bool = False, weight_power: int = 2) -> list[Element]:
    """Counting: with chi2 = k_s, k_d in every context, N^2 E_s = L E[tau] k_s and N^2 E_d = omega^2 N_d k_d.

    So share x (L k_s + omega^2 delta k_d) = omega^2 delta k_d, delta = N_d / E[tau]; at omega^2 = L the share is
    delta k_d / (k_s + delta k_d), free of L. That N^2 E_c = sum_x n(x) chi2 is `energy`.
    `all_decide`: delta = 1. `weight_power`: 1 if the energy is said to be linear in omega.
    """
    size = len(generic(shape).process.trajectories)
    process, model, _, symbol = generic(shape, extra=["k_s", "k_d", "omega", *(f"nu_{i}" for i in range(size))])
    nu = [symbol[f"nu_{i}"] for i in range(size)]
    k_s, k_d, omega, L = symbol["k_s"], symbol["k_d"], symbol["omega"], shape.length
    counts = model.counts(nu)
    rounds = sum(p * len(t.answers) for t, p in zip(process.trajectories, nu, strict=True))  # E[tau] (mass of nu)
    decisions = rounds if all_decide else tokens(counts, DECIDE)
    # Decision coefficients times omega: the gradient's entries there, hence the quadratic form, measured on the logits.
    g = model.gradient(lambda i, d: omega if d.visit.component == DECIDE else 1, nu)
    plain = model.gradient(lambda i, d: 1, nu)
    weighted = [g[z] - (omega if z[0].component == DECIDE else 1) * plain[z] for z in process.logits]
    E_s = sum(sum(row) * k_s for x, row in counts.items() if x.component == SAMPLE)
    E_d = omega**weight_power * sum(sum(row) * k_d for x, row in counts.items() if x.component == DECIDE)
    shared = E_d * (L * rounds * k_s + omega**2 * decisions * k_d) - omega**2 * decisions * k_d * (E_s + E_d)
    at_root = L * tokens(counts, DECIDE) * k_d  # E_d at omega^2 = L
    restored = at_root * (rounds * k_s + decisions * k_d) - decisions * k_d * (E_s + at_root)
    return [*weighted, tokens(counts, SAMPLE) - L * rounds, shared, restored]
