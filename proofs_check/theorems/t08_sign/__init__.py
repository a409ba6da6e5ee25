"""T8 [N] The reward gradient of pi_d has the right sign everywhere.

*Saturated decider: `dJ/dlogit_STOP(x) = sum of rho(h, y) pi_stop pi_res (r - V_(t+1) + c)` over the visits `(t, h, y)`
that share the logit. Binary verifier and `c = 0`: it is `> 0` iff the answer is right, at every visited state with `0
< V_(t+1) < 1`. SFT: `(nu(x)/N) (nu(STOP | x) - pi_stop)`: exactly 0 where demonstrations do not go; where they go and
decide without mistakes, it has the same sign as reward's.*

Proof. By T2 the coefficient is `A^d`; by the score fact the gradient on logit STOP is `rho pi_stop (A^d(STOP) -
E[A^d]) = rho pi_stop A^d(STOP)`, and `A^d(STOP) = r - U_t = pi_res (r - V_(t+1) + c)`. For `r` in {0, 1} and `V`
strictly between, `r - V` has the sign of `r - 1/2`. The SFT part is T5. It is positive iff the demonstrations stop
more often than the policy: without mistakes `nu(STOP | x)` is 1 at a right answer and 0 at a wrong one. So what sets
SFT apart is coverage, not blindness: reward speaks at every visited state with `0 < V_(t+1) < 1`, demonstrations only
where they go, with the sign that they bring.

Precisions. (a) Without history one logit serves rounds `1..T-1`, and its gradient is the sum over them. Each term has
the sign of `r - 1/2` for a binary verifier and `c = 0`, so the sign statement survives. (b) For a graded verifier or
`c > 0` the sign of `r - V_(t+1) + c` is that of the push *per visit*; summed over rounds, the sign is that of the
visit-weighted mean, and single rounds can disagree with it. `tests/proofs_check/test_precisions.py` keeps such an
instance. (c) The SFT gradient carries the normaliser `1/N`.

Checked (`numeric.py`). Controls: `V_t` for `V_(t+1)`; cost left out; the first round only, for a logit that serves
several; SFT on demonstrations that stop more often than the policy, read as if its sign followed the verifier; `1/N`
left out.
"""

PLAIN = "reward stops right answers, resamples wrong"
STATEMENT = (
    "dJ/dlogit_STOP = rho pi_stop pi_res (r - V_(t+1) + c): binary and c = 0, > 0 iff right; SFT: 0 off its data"
)
ASSUMPTIONS = (
    "saturated decider; without history a logit serves several rounds and its gradient is the sum over them",
    "sign: binary verifier, c = 0, visited state, 0 < V_(t+1) < 1",
)
