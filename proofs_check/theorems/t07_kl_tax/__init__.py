"""T7 [N] KL taxes reflection.

*Under `J - beta KL(P || P_ref)`, KL in the reward, saturated decider: the gradient on a STOP logit is the sum of
`rho(h, y) pi_stop pi_res [r - V_(t+1) + c + beta K_(t+1) - beta (log-ratio STOP - log-ratio RESAMPLE)]` over the
visits that share it, and that on RESAMPLE its negative. `K_(t+1)` is the KL still to be paid after RESAMPLE. With KL
`k_s` in every sampling context and `k_d` in every decision context `K = L k_s E[answers to go] + k_d E[decisions to
go]`. With the decision at its reference, an answer with `r < V_(t+1) - c` is pushed to RESAMPLE for `beta < beta*` and
to STOP for `beta > beta*`, `beta* = (V_(t+1) - c - r)/K_(t+1)`, which falls as `1/L`; any other answer is pushed to
STOP for every `beta`. Own-token KL has the same gradient without `beta K`: with the decision at its reference it turns
nothing.*

Proof. `E[grad log P] = 0`, so the gradient of the penalised objective is REINFORCE with payoff `f = R - beta Lam`. By
T2 the coefficient of a decision is its advantage for `f`, and by the score fact the gradient on logit STOP is `rho
pi_stop A(STOP) = rho pi_stop pi_res (E[f | STOP] - E[f | RESAMPLE])`. What is already paid (cost, log-ratios of the
past and of the answer itself) cancels in the difference. After STOP there come `r - beta log-ratio STOP`; after
RESAMPLE `V_(t+1) - c - beta (log-ratio RESAMPLE + K_(t+1))`, where `K` is the conditional mean of all later
log-ratios, a KL, so `>= 0`. By the chain rule it adds up over the factors to go (T6). The two log-ratios are 0 if the
decision is at its reference; the bracket is then affine and increasing in `beta`. Own-token KL charges the decision
its own log-ratio only (gradient of the local KL, T6).

Precisions. (a) With the decision at its reference a boundary needs `r < V_(t+1) - c`. A right answer (`r = 1`) is
never turned, and neither is a wrong one if another attempt is not worth its price (`V_(t+1) <= c`): reward alone
already says STOP. There the tax acts in one direction only. (b) Away from its reference, with `D` the log-odds of STOP
over those of the reference, the bracket is `r - V_(t+1) + c + beta (K_(t+1) - D)`. Three cases. If `r < V_(t+1) - c`,
the push turns to STOP at `beta = (V_(t+1) - c - r)/(K_(t+1) - D)` if `D < K_(t+1)`; else no `beta` turns it: the tax
moves the log-odds of STOP by at most `K_(t+1)`. If `r > V_(t+1) - c`, it turns to RESAMPLE at `beta = (r - V_(t+1) +
c)/(D - K_(t+1))` if `D > K_(t+1)`, else nowhere: so a right answer is turned beyond `(1 - V_(t+1) + c)/(D - K_(t+1))`.
If `r = V_(t+1) - c`, it has the sign of `K_(t+1) - D` at every `beta > 0`. Own-token KL has 0 for `K` in all three: it
turns a push at `beta = (r - V_(t+1) + c)/D` iff that is positive. At `T = 2`, `L = 1`, `D = 4` at a right answer and
`-3` at a wrong one, both KLs turn both answers between `beta = 0.1` and `0.25`, to the wrong side
(`tests/proofs_check/test_repairs.py`). (c) Without history one logit serves rounds `1..T-1`: `V - c - r` and `K` are
then visit-weighted means over these rounds. (d) "Grows as `L`" is at a given drift per token. At the optimum of the
penalised objective `K` is bounded whatever `L` (T11). (e) At a given drift the tax also enters the energy of the
penalty: with one softmax per context and round the trajectory KL has `E_d = sum rho pi_stop pi_res (K - D)^2`, which
grows as `L^2`, whereas the `E_d` of own-token KL does not grow (T6). (f) Own-token KL is meant with `k2` or with `k3`
times the ratio. `k3` alone, as GRPO has it, gives the forward KL: `-beta rho (pi_stop - ref_stop)` for the part of the
log-ratios. No `K` in it either.

Checked (`numeric.py`): autodiff of the exact penalised objective, both closed forms, the tax as the difference of the
two gradients, `k3` with and without its ratio, the growth of the tax under a drift of exactly constant KL per context,
and the sign at every context 1% below the first and 1% above the last boundary. Controls: `K` dropped; `K_t` for
`K_(t+1)`; `V_t` for `V_(t+1)`; log-ratios left out; own-token KL said to carry the tax, and to turn the push; `k3` as
the reverse KL; a `K` that does not grow with `L`. Boundary (`boundary.py`): the phase diagram in `(beta, L)` up to `L
= 64`, from every answer for small `L` and from classes of exchangeable answers for all.
"""

PLAIN = "KL in the reward taxes resampling"
STATEMENT = "trajectory KL: STOP gradient rho pi_stop pi_res [r - V + c + beta K - beta (log-ratios)], K grows as L"
ASSUMPTIONS = (
    "saturated decider, beta KL(P || P_ref) in the reward; V and K of the next round, K = KL still to be paid",
    "without history a logit serves several rounds: sums over visits, boundary at visit-weighted V - c - r and K",
    "boundary: decision at its reference and r < V - c; away from the reference there are three cases (precisions)",
    "growth as L: KL k_s in every sampling context, k_d in every decision context",
)
