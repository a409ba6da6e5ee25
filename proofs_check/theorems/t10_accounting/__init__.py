"""T10 [N] Accounting identity.

*Memoryless attempts at one prompt: `p = P(right)`, `a = P(STOP | right)`, `b = P(STOP | wrong)`, `zeta = 1 - p a -
(1-p) b`, binary verifier, `c = 0`. Then `acc_T = p a (1 - zeta^(T-1))/(1 - zeta) + zeta^(T-1) p`; as `T` grows
`logit(acc) = logit(p) + log(a/b)`; and at every finite `T` `acc_T - p = p (1-p) (a-b) (1 + zeta + .. + zeta^(T-2))`,
so for `T >= 2` and `0 < p < 1` there is a gain iff `a > b`.*

Proof. An attempt ends right with probability `p a`, ends wrong with `(1-p) b`, goes on with `zeta`. Stopping right
before the last round has probability `p a (1 + zeta + .. + zeta^(T-2))`; the last round is reached with probability
`zeta^(T-1)` and kept whatever it is. If `zeta < 1` the limit is `acc = p a / (p a + (1-p) b)`, whose odds are
`(p/(1-p)) (a/b)`. For the gain put `S = 1 + .. + zeta^(T-2)`, so `zeta^(T-1) = 1 - (1 - zeta) S`: `acc_T - p = S (p
a - p (1 - zeta)) = S p (a - p a - (1-p) b) = S p (1-p) (a-b)`. `S >= 1` for `T >= 2`. Also `acc_T = acc + zeta^(T-1)
(p - acc)`: the distance to the limit shrinks geometrically.

Finite `T`. `logit(acc_T)` is not a sum, so the change between two policies is split by the Shapley value over
{sampler, decider}: each part is the mean of its effect over both orders of swapping. The parts add up to the change.
What they tend to: write `l(s, d)` for the `log(a/b)` of sampler `s` with decider `d`. `a` and `b` are means of the
decider over the *sampler's* answers, so a new sampler changes `l` too. As `T` grows the sampler's part tends to the
change of `logit(p)` plus `(1/2) sum_d [l(s_1, d) - l(s_0, d)]`, the decider's to `(1/2) sum_s [l(s, d_1) - l(s,
d_0)]`: insert `logit(p) + l` into the definition. They are the changes of `logit(p)` and of `log(a/b)` only if `l`
does not depend on the sampler. Counterexample: one right and two wrong answers, `P(STOP) = (.5, .9, .1)`, sampler
`(.5, .4, .1)` replaced by `(.5, .1, .4)`, decider untouched. `logit(p)` does not change, `log(a/b)` rises by 1.046
nats, and all of it is the sampler's part (`tests/proofs_check/test_repairs.py`).

Precisions. (a) At `p = 0`, `p = 1`, `a = b` (with `a = b = 0`: never stopping, `zeta = 1`) and `T = 1` there is no
gain: `acc_T = p`. (b) Everything is per prompt. Averages do not commute with it: two prompts with `(p, a, b) = (.9,
.9, .9)` and `(.1, .1, .1)` have no gain, yet pooled over prompts `a = .82 > b = .18`. So a pooled `a > b` does not
show a gain.

Checked (`numeric.py`), against enumerated processes and in closed form. Controls: the forced stop forgotten; `zeta^T`;
the limit's identity at finite `T`; the identity at pooled `p, a, b`.
"""

PLAIN = "sampler and decider add up in log-odds"
STATEMENT = "logit(acc) -> logit(p) + log(a/b); at every finite T >= 2, 0 < p < 1: gain over p iff a > b"
ASSUMPTIONS = (
    "memoryless attempts at one prompt (history `none`), binary verifier, c = 0",
    "prompt by prompt: averages do not commute with the formula",
    "log-odds: 0 < p < 1, a > 0, b > 0",
)
