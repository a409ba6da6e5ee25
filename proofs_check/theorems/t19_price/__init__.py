"""T19 [N] Trajectory KL is a price per attempt.

*Let `m` tokens of every answer be read by nothing, each with drift `kappa = KL(pi || pi_ref)` at every prompt. Then
`KL_m = KL_0 + m kappa E[tau]`, so in all other parameters, shared or not,*

    J_c - beta KL_m = J_(c + beta m kappa) - beta KL_0 - beta m kappa

*Consequences: T7's boundary is `r = V - (c + beta m kappa)`. With everything else at its reference, no push to
RESAMPLE is left once `m >= (1 - c)/(beta kappa)`. The gradient of the trajectory KL alone is `grad KL_0 + m kappa
grad E[tau]`, and its decision share tends to that of the payoff `tau`.*

Proof. The KL of a trajectory is the sum over its factors (T6). An unread token is drawn once a round, `tau` times in
all, independently of everything else: it adds `kappa E[tau]`. The cost is `c E[tau - 1]`, so a drift of `m` tokens at
weight `beta` is a cost of `beta m kappa` for each attempt, the first included, which is a constant. At the reference
`KL_0 = 0` and the push on STOP has the sign of `r - V + c + beta m kappa` (T7), `V <= 1` the value of going on
without these costs. The filler's own part of the KL's energy is `m E[tau] Var(log pi/pi_ref)`, linear in `m`, while
that of the others grows as `m^2`.

Precision. Own-token KL charges each token its own drift only: the decision's gradient does not know `m`. So length
weighting of the KL *penalises trying again*, which is not the same as starving the decision of gradient.

Checked (`numeric.py`), with the library's KL in the reward, on enumerated processes with 1 and 2 unread tokens.
Controls: the price left out; a price of one token more; own-token KL said to carry the price.
"""

PLAIN = "trajectory KL charges each further attempt"
STATEMENT = "J_c - beta KL_m = J_(c + beta m kappa) - beta KL_0 - beta m kappa in all other parameters"
ASSUMPTIONS = (
    "m tokens of every answer that neither verifier nor decider nor sampler reads",
    "the same drift kappa for each of them at every prompt",
    "policies that do not read the filler; any history",
)
