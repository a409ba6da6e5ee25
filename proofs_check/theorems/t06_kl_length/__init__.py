"""T6 [P/R] Length weighting of KL.

*`KL(P || P_ref) = sum_t E[KL_s,t] + sum_t E[KL_d,t]`, the sampling part a sum over tokens. Own-token KL (each token
charged its own local KL): `E_c = sum_(x in c) n(x) Var_pi(log pi/pi_ref | x)`; if the variance is `v_s` in every
sampling context and `v_d` in every decision context, `E_s = L E[tau] v_s` and `E_d = N_d v_d`. Trajectory KL, with
`Lam = log P/P_ref`: `E_s + E_d = Var(Lam) - Var_q[E(Lam | q)]`, split as in T3 with `R := Lam`.*

Proof. `Lam` is the sum of log-ratios of factors; take conditional means one factor at a time. The local KL at `x` has
gradient `E_pi[log(pi/pi_ref) score]` (the term from `grad log pi` has mean 0), which is coefficient `log pi/pi_ref`
per draw: the score fact gives the energy. For the trajectory KL, `grad KL(P || P_ref) = E[Lam grad log P]`, again
because `E[grad log P] = 0`. That is REINFORCE with return `Lam`, so T3 applies.

Precisions. (a) With several prompts the energy is `Var(Lam) - Var_q[E(Lam | q)]`, not `Var(Lam)`: the policy does not
choose the prompt. (b) As in T3, equality needs a softmax per context and round; without history it is `<=`, and the
round-averaged closed form is checked. Own-token KL has no such restriction. (c) "Own-token" must mean an estimator
whose gradient is that of the local KL, such as k2; k1 in the loss has expected gradient 0. (d) Growth as `L` is at a
given drift per token: it holds for fixed `v_s`, `v_d`, `E[tau]`.

Checked (`numeric.py`), also with shared parameters (exact gradient, budget as inequality). Controls: k1 for k2;
own-token KL said to be the gradient of `KL(P || P_ref)`; `Var_q` left out; a KL charged for the forced stop.
"""

PLAIN = "KL in the loss is weighted by length"
STATEMENT = "own-token KL: E_s grows as L, E_d does not; trajectory KL: E_s + E_d = Var(Lam) - Var_q[E(Lam|q)]"
ASSUMPTIONS = (
    "on-policy, Lam = log P/P_ref, own-token KL by k2 (reverse KL per prefix)",
    "saturated policy; trajectory KL: one softmax per context and round, else <=",
    "growth as L: Var(log pi/pi_ref | x) = v_s in every sampling context, v_d in every decision context",
)
