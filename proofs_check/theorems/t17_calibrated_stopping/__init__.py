"""T17 [N] Calibrated stopping: imitation stands still where reward does not.

*A chain of `d` steps: the right answer is the sum of `d` symbols mod `m`, the answer of round `t` on the chain the
sum of the first `t`. A policy takes the chain with probability `p`, else guesses at once, right with probability `s =
1/m`; one token an answer, history `full`, `T = d` or `d + 1`. Its accuracy is `p + (1-p) s`. Imitating its own
trajectories leaves `p` where it is, for ever. Imitating its own successes gives `p' = p/(p + (1-p) s)`: the odds of
the chain are multiplied by `1/s` a round. After a first answer equal to the first symbol it stops with probability
`(1-p) s/(p + (1-p) s)`: calibrated, and wrong with `1 - s`. Greedy decoding takes the chain iff `p > s/(1 + s)`. The
reward gradient on the logit of `p` is `p (1-p)(1 - s)`: it takes `p` to 1.*

Proof. A guess is uniform and independent of the symbols, so it is right with probability `s`, and equal to the first
symbol with probability `s`. Successes are chains with weight `p` and guesses with weight `(1-p) s`; the likelihood of
a mixture is greatest at their frequency. Given a first answer equal to the prefix, the trajectory is a chain with
weight `p` and a guess with `(1-p) s`; a decider that sees no more can do no better, in likelihood, than that
frequency. It prefers RESAMPLE iff `p > (1-p) s`. `J = p + (1-p) s`, and `dp/dlogit = p (1-p)`.

Precision. This is what a learner does that cannot compute the sum in one step: a policy class whose only freedom is
`p`. One that can (a saturated table, or a network at small `d`) learns right guesses from its own successes instead.
For parity (`m = 2`) the fixed point is known (arXiv 2510.11495); the general `s` and the statements on STOP are ours.

Checked (`numeric.py`): the policy's law as a mixture, accuracy, SFT, RFT, reward by the library's objectives on all
trajectories. Controls: RFT said to leave `p`; SFT said to multiply the odds; the decider's STOP said to be `1 - p`;
reward said to vanish as the gradient of imitation does.
"""

PLAIN = "imitation keeps chains' share; reward does not"
STATEMENT = "SFT: p' = p; RFT: p' = p/(p + (1-p)s); reward gradient p(1-p)(1-s); P(STOP | prefix) = (1-p)s/(p + (1-p)s)"
ASSUMPTIONS = (
    "right guesses have probability s = 1/m, whatever the symbols",
    "the policy class has one freedom, p; without limit of data",
)
