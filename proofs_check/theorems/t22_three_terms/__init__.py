"""T22 [N] Accounting with three terms, and what a decider keeps under transfer.

*Memoryless attempts at one prompt, binary verifier, `c = 0`. `a(s, d)` and `b(s, d)` are averages of the decider `d`
over the answers of the sampler `s`. As `T` grows, the Shapley parts of swapping real samplers and deciders `0 -> 1`
in `logit(acc_T)` tend to*

    sampler = [logit p(s1) - logit p(s0)] + 1/2 sum_d [log(a/b)(s1, d) - log(a/b)(s0, d)]
    decider = 1/2 sum_s [log(a/b)(s, d1) - log(a/b)(s, d0)]

*The second half of the sampler's part is called `mix`: what a new sampler does to the decider's `a` and `b`. The
split into changes of `logit(p)` and of `log(a/b)` is that of the components iff `mix = 0`. Transfer: let the laws of
the stop probability given a right and given a wrong answer move by total variations `e_1` and `e_0`. Then `a' >= a -
e_1`, `b' <= b + e_0`, and the new accuracy is at least `E_q[acc_T(p'_q, a_q - e_1, b_q + e_0)]`.*

Proof. Put `L(s, d) = logit p(s) + log(a/b)(s, d)`, the limit of T10 for that pair. The Shapley part of the sampler is
`1/2 sum_d [L(s1, d) - L(s0, d)]`, in which `logit p` does not depend on `d`; that of the decider is `1/2 sum_s [L(s,
d1) - L(s, d0)]`, in which it cancels. `mix` is 0 if the sampler keeps its law within right answers and within wrong
ones. Transfer: `a' - a` is the difference of the means of one function with values in [0, 1] under two laws, so at
most their total variation; likewise `b`. `acc_T` does not fall in `a` and does not rise in `b`: the gradient on STOP
has the sign of `r - V` (T8).

Precision. So `logit p` and `log(a/b)` are no split between the components: with one right and two wrong answers,
P(STOP) = (.5, .9, .1), a sampler that moves from (.5, .4, .1) to (.5, .1, .4) and a decider that is not touched, the
sampler's part is +1.046 nats and the decider's 0, while the changes of `logit p` and of `log(a/b)` are 0 and +1.046.

Checked (`numeric.py`): the parts of real swaps at 400 rounds; a sampler that only moves `p`; transfer at the process'
own `T`. Controls: `mix` left out; `mix` given to the decider; transfer without `e_1`, and without `e_0`, at deciders
that are sure of themselves.
"""

PLAIN = "gains split into sampler, mix, decider"
STATEMENT = "sampler = d logit p + mix, decider = mean d log(a/b); acc' >= E[acc_T(p', a - e_1, b + e_0)]"
ASSUMPTIONS = (
    "memoryless attempts (history `none`), binary verifier, c = 0",
    "parts: T -> inf, 0 < p < 1, a > 0, b > 0; prompt by prompt",
    "transfer: total variations of the laws of P(STOP | answer), given right and given wrong",
)
