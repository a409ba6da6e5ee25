"""T17, symbolically: what imitation and reward make of chains and guesses, for every s and on enumerated processes."""

from __future__ import annotations

from sympy import ZZ
from sympy.polys.fields import field

from dsjax.evaluation import mixture
from proofs_check.symbolic.process import DECIDE, Context, Model, Shape, SymbolicProcess
from proofs_check.symbolic.proof import Element, Proofs
from proofs_check.theorems.t17_calibrated_stopping.numeric import Chain

CHAINS = (Chain(2, 2), Chain(3, 2, forced=True))
PROOFS = Proofs("T17")


@PROOFS.identity(
    "odds(p') = odds(p)/s; after k rounds odds(p_k) = odds(p)/s^k",
    "p, s, and z for s^k",
    shape="every k",
    control="successes said to leave p",
    still=True,
)
def successes(*, still: bool = False) -> list[Element]:
    """One round of imitating successes, and the step from k to k + 1."""
    _, p, s, z = field("p s z", ZZ)

    def after(x: Element) -> Element:
        return x if still else mixture.after_success(x, s)

    def at(z: Element) -> Element:
        """p_k with odds p/((1 - p) z)."""
        return p / (p + (1 - p) * z)

    return [after(p) / (1 - after(p)) - p / ((1 - p) * s), after(at(z)) - at(z * s)]


@PROOFS.identity(
    "the mixture's own law and its successes are where cross-entropy is least: slope 0 at p and at p'",
    "p, s",
    shape="two laws of chains",
    control="each least at the other's",
    swapped=True,
)
def least(*, swapped: bool = False) -> list[Element]:
    """Slope of -w log p - (1 - w) log(1 - p) times p (1 - p), with the part w of chains in the data."""
    _, p, s = field("p s", ZZ)
    own, kept = p, p / (p + (1 - p) * s)
    at = (kept, own) if swapped else (own, mixture.after_success(p, s))
    return [-w * (1 - x) + (1 - w) * x for w, x in zip((own, kept), at, strict=True)]


@PROOFS.identity(
    "dJ/dlogit(p) = p (1-p)(1-s); P(STOP | prefix) = P(guess | prefix); it is 1/2 at p = s/(1+s)",
    "p, s",
    shape="the mixture",
    control="P(STOP | prefix) said to be 1 - p",
    naive=True,
)
def stopping(*, naive: bool = False) -> list[Element]:
    """Reward's slope from the accuracy; Bayes' rule at the prefix; the greedy threshold."""
    _, p, s = field("p s", ZZ)
    chain_and_prefix, guess_and_prefix = p, (1 - p) * s
    bayes = guess_and_prefix / (chain_and_prefix + guess_and_prefix)
    stop = (lambda p: 1 - p) if naive else (lambda p: mixture.stop_at_prefix(p, s))
    slope = mixture.accuracy(p, s).diff(p) * p * (1 - p)
    return [slope - mixture.reward_gradient(p, s), stop(p) - bayes, 2 * stop(mixture.greedy_threshold(s)) - 1]


def _process(chain: Chain, like: Element) -> SymbolicProcess:
    """All problems of a chain, equally likely."""
    one, m, prefixes = like**0, chain.modulus, chain.prefixes().tolist()
    right = {(q, (y,)): one * (y == row[-1]) for q, row in enumerate(prefixes) for y in range(m)}
    law = (one / len(prefixes),) * len(prefixes)
    return SymbolicProcess(Shape(chain.rounds, 1, m, len(prefixes)), law, right, 0 * one)


def _mixed(chain: Chain, process: SymbolicProcess, p: Element) -> Model:
    """The policy of `numeric.Mixture` at a share p."""
    m, prefixes, policy = chain.modulus, chain.prefixes().tolist(), {}
    for x in process.contexts:
        row, t = prefixes[x.prompt], len(x.history)
        if x.component != DECIDE:
            steps = [p**0 * (v == row[t]) for v in range(m)]
            policy[x] = tuple(p * step + (1 - p) / m if t == 0 else step for step in steps)
            continue
        on_chain = x.prefix == (row[t],) and t < chain.steps - 1  # the others have guessed, or are done
        stop = p**0 if not on_chain else mixture.stop_at_prefix(p, p**0 / m) if t == 0 else 0 * p
        policy[x] = (stop, 1 - stop)
    return Model(process, policy)


@PROOFS.identity(
    "slope of log-likelihood in x: all trajectories of p, p - x; successes, p (1-x) - (1-p) s x; 0 at p and at p'",
    "p of the trajectories, x of the learner",
    *CHAINS,
    shape="{}, all trajectories",
    control="successes said to leave p",
    still=True,
)
def imitation(chain: Chain, *, still: bool = False) -> list[Element]:
    """Mean of d log P_x/dx over trajectories drawn at p, times x (1-x); over the right ones of them."""
    _, p, x = field("p x", ZZ)
    process = _process(chain, p)
    old, new = (_mixed(chain, process, share).laws for share in (p, x))
    slopes = [P * Q.diff(x) / Q * x * (1 - x) if Q != 0 else 0 for P, Q in zip(old, new, strict=True)]
    right = sum(slope * r for slope, r in zip(slopes, process.returns(), strict=True))
    stated = p - x if still else p * (1 - x) - (1 - p) * x / chain.modulus
    return [sum(slopes) - (p - x), right - stated]


@PROOFS.identity(
    "J = p + (1-p) s; P(STOP | prefix) is the frequency of guesses at it",
    "p",
    *CHAINS,
    shape="{}, all trajectories",
    control="P(STOP | prefix) said to be 1 - p",
    naive=True,
)
def enumerated(chain: Chain, *, naive: bool = False) -> list[Element]:
    """Accuracy, and for each problem the trajectories that stop at the prefix over those that reach it."""
    _, p = field("p", ZZ)
    process, s = _process(chain, p), p**0 / chain.modulus
    model = _mixed(chain, process, p)
    residuals = [model.mean(process.returns()) - mixture.accuracy(p, s)]
    for q, row in enumerate(chain.prefixes().tolist()):
        first = ((row[0],),)
        stops = sum(
            P for w, P in zip(process.trajectories, model.laws, strict=True) if (w.prompt, w.answers) == (q, first)
        )
        stated = 1 - p if naive else mixture.stop_at_prefix(p, s)
        residuals.append(stops - model.reach[Context(DECIDE, q, (), first[0])] * stated)
    return residuals
