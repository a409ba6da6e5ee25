"""T13 [N] Dividing by the response length tilts pi_d.

*Surrogate `E[(R - base)/n_tau sum log pi]`, `n_tau` the number of loss tokens: `n_t = t (L+1)` for `t < T`, `n_T = T
(L+1) - 1`; `base` a constant per prompt. Saturated decider: the gradient on a STOP logit is the sum over visits of
`(rho pi_stop pi_res / n_t) (r - V_(t+1) + c + D)`, `D = E[(R - base)(1 - n_t/n_tau) | RESAMPLE]`. So the threshold of
T8, `r > V_(t+1) - c`, moves to `r > V_(t+1) - c - D`, and a sign flips iff `r` lies between the two. Binary verifier,
`c = 0`, `0 <= base <= 1`: no sign of T8 flips, but sizes change.* Signs are per visit, at visited states with `0 <
V_(t+1) < 1`.

Proof. One weight per trajectory, so T2 applies with payoff `(R - base)/n_tau`, and as in T8 the push per visit is
(payoff of stopping) - (expected payoff of going on) `= (r - c (t-1) - base)/n_t - E[(R - base)/n_tau | RESAMPLE]`.
Multiply by `n_t` and write `n_t/n_tau = 1 - (1 - n_t/n_tau)`: this is `r - c (t-1) - E[R | RESAMPLE] + D`, and `E[R |
RESAMPLE] = V_(t+1) - c t`. Pushes `x` and `x + D` have opposite signs iff 0 lies strictly between them.

Binary: `n_t` grows with `t` (the last step by `L >= 1`). Right answer: stopping pays `(1-base)/n_t`, going on at most
`(1-base)/n_(t+1)`, less if `base < 1`; if `base = 1`, stopping pays 0 and going on less than 0, since `V_(t+1) < 1`.
Wrong answer: stopping pays `-base/n_t`, going on at least `-base/n_(t+1)`, more if `base > 0`; if `base = 0`, stopping
pays 0 and going on more than 0, since `V_(t+1) > 0`.

Sizes. The coefficient of a token is `(1-base)/n_tau` after a right answer, `-base/n_tau` after a wrong one: right
answers found early are reinforced more, wrong ones after more resamples punished less. `D` compares later returns with
`base`: for `c = 0` it is positive at `base = 0`, where every decision is tilted to STOP, and negative at `base = 1`,
where every decision is tilted to RESAMPLE.

The region. If the decider treats all answers alike and answers are drawn without memory, `R` does not depend on `tau`
and (`c = 0`) the threshold in round 1 is `base + (V - base) E[n_1/n_tau]`. For `T = 2` this is `((L+1) V + L base)/(2
L + 1)`: between `(2 V + base)/3` at `L = 1` and `(V + base)/2` for long answers. As rounds are added and the decider
seldom stops it tends to `base`: an answer is then kept if it beats the baseline, whatever going on would bring. The
boundary map (`boundary.py`) measures it, with one instance on each side.

Precisions. (a) Sequence-mean GRPO with a binary verifier is `c_G(p)` times this with `base = p` (T12), since expected
advantages at a prompt have mean 0. As `p` is in [0, 1] it keeps all signs of T8. (base) For `0 < base < 1` signs are
strict without `0 < V_(t+1) < 1`: where nothing can succeed T8 is silent, and this surrogate pushes RESAMPLE, because
longer failures are punished less; where nothing can fail it pushes STOP. (c) `0 <= base <= 1` is needed: at `base =
-10` every wrong answer is told to STOP for `T <= 4`, as `(1-base)/(-base) = 1.1 < n_(t+1)/n_t`. (d) Without history a
logit serves several rounds: gradients add up, which keeps the binary signs; the region is per visit. (e) It is the
factor `1 - n_t/n_tau`, not the length of one answer, that matters: for `base` off `V` signs flip at `L = 1` too.

Checked (`numeric.py`): coefficients, both forms of the gradient (`c > 0`, graded), signs for `base` in {0, random, 1},
GRPO, tilt, and the region against the measured signs of both gradients. Controls: the forced stop counted as a token;
`D` left out; `base = -10`; a graded verifier built to lie in the region, said to keep its signs; the region on the
other side; GRPO with `base = 1/2`.
"""

PLAIN = "dividing by length moves the STOP threshold"
STATEMENT = (
    "(R - base)/n_tau: binary, base in [0, 1]: every sign of T8, not its size; graded: STOP iff r > V_(t+1) - c - D"
)
ASSUMPTIONS = (
    "saturated decider; n_tau = loss tokens: the forced stop of round T has none",
    "base is one constant a prompt; signs: binary verifier, c = 0, 0 <= base <= 1, visited state, 0 < V_(t+1) < 1",
    "the region: history full, so that one logit serves one round",
)
