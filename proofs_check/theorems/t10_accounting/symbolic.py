"""T10, symbolically: accuracy after T rounds, for every T by induction, and its limit in log-odds."""

from __future__ import annotations

from sympy import ZZ
from sympy.polys.fields import field

from proofs_check.symbolic.process import DECIDE, SAMPLE, Context, Shape, generic
from proofs_check.symbolic.proof import Element, Proofs

PROCESSES = tuple(Shape(T, 1, 3, history="none") for T in (1, 2, 3, 4))
PARTS = "Shapley parts add up; limits: d logit(p) + mean of l's change over deciders; that over samplers"
SWAPS = "swaps of sampler and decider"
VALUES = "the four values; logit(p) of both samplers and l(s, d) = log(a/b) of all four pairs"
PROOFS = Proofs("T10")


def accuracy(p: Element, a: Element, b: Element, z: Element) -> Element:
    """acc_T with z for zeta^(T-1)."""
    zeta = 1 - p * a - (1 - p) * b
    return p * a * (1 - z) / (1 - zeta) + z * p


@PROOFS.identity(
    "acc_1 = p; acc_(T+1) = p a + zeta acc_T; acc_T = acc + z (p - acc); acc_T - p = p (1-p) (a-b) (1-z)/(1-zeta)",
    "p, a, b, and z for zeta^(T-1)",
    shape="every T",
    control="zeta^T for zeta^(T-1)",
    late=True,
)
def induction(*, late: bool = False) -> list[Element]:
    """T = 1, the step from T to T + 1, and the two other forms, as identities in p, a, b and z = zeta^(T-1).

    The first attempt ends right with probability p a; otherwise, with probability zeta, T rounds are left:
    acc_(T+1) = p a + zeta acc_T. `late`: z = zeta^T.
    """
    _, p, a, b, z = field("p a b z", ZZ)
    zeta = 1 - p * a - (1 - p) * b
    at = (lambda z: accuracy(p, a, b, zeta * z)) if late else (lambda z: accuracy(p, a, b, z))
    limit = p * a / (p * a + (1 - p) * b)
    return [
        at(p / p) - p,
        at(zeta * z) - (p * a + zeta * at(z)),
        at(z) - (limit + z * (p - limit)),
        # 1 + zeta + .. + zeta^(T-2) = (1 - z)/(1 - zeta)
        at(z) - p - p * (1 - p) * (a - b) * (1 - z) / (1 - zeta),
    ]


@PROOFS.identity(
    "odds(acc) = odds(p) a/b",
    "p, a, b",
    shape="T -> inf",
    control="the identity of the limit at finite T",
    finite=True,
)
def odds(*, finite: bool = False) -> list[Element]:
    """acc/(1 - acc) = (p/(1-p)) (a/b) in the limit z -> 0; without logarithms. `finite`: the same said at any T."""
    _, p, a, b, z = field("p a b z", ZZ)
    acc = accuracy(p, a, b, z if finite else 0 * z)
    return [acc / (1 - acc) - p / (1 - p) * (a / b)]


@PROOFS.identity(
    PARTS, VALUES, shape=SWAPS, control="the sampler's part said to be the change of logit(p) alone", no_mix=True
)
@PROOFS.identity(PARTS, VALUES, shape=SWAPS, control="one order of swapping", one_order=True)
def shapley(*, one_order: bool = False, no_mix: bool = False) -> list[Element]:
    """Mean effect over both orders of swapping, from free values f_sd and from the limit.

    In the limit f_sd = p_s + l_sd, with logit(p) of sampler s and log(a/b) of sampler s with decider d free.
    `one_order`: each swapped in from the base alone. `no_mix`: the sampler's part said to be the change of logit(p).
    """
    _, f00, f10, f01, f11, p0, p1, l00, l10, l01, l11 = field("f00 f10 f01 f11 p0 p1 l00 l10 l01 l11", ZZ)

    def parts(f00: Element, f10: Element, f01: Element, f11: Element) -> tuple[Element, Element]:
        if one_order:
            return f10 - f00, f01 - f00
        return ((f10 - f00) + (f11 - f01)) / 2, ((f01 - f00) + (f11 - f10)) / 2

    sampler, decider = parts(f00, f10, f01, f11)
    limit = parts(p0 + l00, p1 + l10, p0 + l01, p1 + l11)
    mix = 0 if no_mix else ((l10 - l00) + (l11 - l01)) / 2
    return [
        sampler + decider - (f11 - f00),
        limit[0] - (p1 - p0) - mix,
        limit[1] - ((l01 - l00) + (l11 - l10)) / 2,
    ]


@PROOFS.identity(
    "J of the enumerated process = acc_T(p, a, b)",
    "all probabilities",
    *PROCESSES,
    shape="{}, binary verifier (two of three answers right), c = 0",
    control="forced stop of round T forgotten",
    forget=True,
)
def process(shape: Shape, *, forget: bool = False) -> list[Element]:
    """The enumerated memoryless process: J = p a (1 + .. + zeta^(T-2)) + zeta^(T-1) p.

    Two right answers with different P(STOP): p a and (1 - p) b are sums over answers. `forget`: the forced stop left
    out.
    """
    found, model, _, _ = generic(shape, rewards=lambda q, y: int(y != (2,)), cost=False)
    pi = model.policy[Context(SAMPLE, 0, (), ())]
    # For T = 1 nobody decides, and no stop probability is needed.
    stop = [model.policy.get(Context(DECIDE, 0, (), y), (0,))[0] for y in found.answers]
    p, pa, wrong_b = pi[0] + pi[1], pi[0] * stop[0] + pi[1] * stop[1], pi[2] * stop[2]
    zeta = 1 - pa - wrong_b
    T = shape.rounds
    stated = sum(pa * zeta**i for i in range(T - 1)) + (0 if forget else zeta ** (T - 1) * p)
    return [model.mean(found.returns()) - stated]
