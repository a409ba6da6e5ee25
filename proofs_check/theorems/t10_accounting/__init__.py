"""T10 [N] Accounting identity.

*Memoryless attempts at one prompt: `p = P(right)`, `a = P(STOP | right)`, `b = P(STOP | wrong)`, `rho = 1 - p a -
(1-p) b`, binary verifier, `c = 0`. Then `acc_T = p a (1 - rho^(T-1))/(1 - rho) + rho^(T-1) p`; as `T` grows
`logit(acc) = logit(p) + log(a/b)`; and at every finite `T` `acc_T - p = p (1-p) (a-b) (1 + rho + .. + rho^(T-2))`, so
for `T >= 2` and `0 < p < 1` there is a gain iff `a > b`.*

Proof. An attempt ends right with probability `p a`, ends wrong with `(1-p) b`, goes on with `rho`. Stopping right
before the last round has probability `p a (1 + rho + .. + rho^(T-2))`; the last round is reached with probability
`rho^(T-1)` and kept whatever it is. If `rho < 1` the limit is `acc = p a / (p a + (1-p) b)`, whose odds are `(p/(1-p))
(a/b)`. For the gain put `S = 1 + .. + rho^(T-2)`, so `rho^(T-1) = 1 - (1 - rho) S`: `acc_T - p = S (p a - p (1 -
rho)) = S p (a - p a - (1-p) b) = S p (1-p) (a-b)`. `S >= 1` for `T >= 2`. Also `acc_T = acc + rho^(T-1) (p - acc)`:
the distance to the limit shrinks geometrically.

Finite `T`. `logit(acc_T)` is not a sum, so the change between two policies is split by the Shapley value over
{sampler, decider}: each part is the mean of its effect over both orders of swapping. The parts add up to the change,
and tend to the changes of `logit(p)` and of `log(a/b)`.

Precisions. (a) At `p = 0`, `p = 1`, `a = b` (with `a = b = 0`: never stopping, `rho = 1`) and `T = 1` there is no
gain: `acc_T = p`. (b) Everything is per prompt. Averages do not commute with it: two prompts with `(p, a, b) = (.9,
.9, .9)` and `(.1, .1, .1)` have no gain, yet pooled over prompts `a = .82 > b = .18`. So a pooled `a > b` does not
show a gain.

Checked (`numeric.py`), against enumerated processes and in closed form. Controls: the forced stop forgotten; `rho^T`;
the limit's identity at finite `T`; the identity at pooled `p, a, b`.
"""

PLAIN = "sampler and decider add up in log-odds"
STATEMENT = "logit(acc) -> logit(p) + log(a/b); at every finite T >= 2, 0 < p < 1: gain over p iff a > b"
ASSUMPTIONS = (
    "memoryless attempts at one prompt (history `none`), binary verifier, c = 0",
    "prompt by prompt: averages do not commute with the formula",
    "log-odds: 0 < p < 1, a > 0, b > 0",
)
