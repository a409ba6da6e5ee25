"""T2 [P/R] Balanced coefficients of the surrogate reward.

*For a surrogate `E[w sum log pi]` with one weight per trajectory, the coefficient is the same on every factor of both
components. Replacing `w` by each factor's own causal advantage leaves `G_s` and `G_d` unchanged.* Here `w` is treated
as data; it may be any function of the whole trajectory.

Proof. The derivative with respect to each log-probability is `w` by definition. For the second part take a factor,
with `past` everything before it and `v` its outcome. `E[w score] = E[E[w | past, v] score]`, and `E[E[w | past]
score] = 0`. So `E[w score] = E[(E[w | past, v] - E[w | past]) score]`. The bracket is the causal advantage of the
payoff `w`. For a block of `L` tokens the advantage of the whole answer may stand on each of its tokens: it is the
conditional mean of `w` given the whole answer, minus a constant known before the answer, and later tokens of the block
change neither argument.

Precisions. (a) The advantage is that of the payoff `w`, not of `R`: they agree for REINFORCE and its baselines, but
for KL in the reward `w = R - beta Lam`, and for GRPO `w = A/T_i` with `T_i` the number of tokens. Dividing by `T_i`
keeps one coefficient per trajectory, but the result is no longer the gradient of `J`. (b) "Balanced" is convention
(i), per factor. It says nothing about energies; token-mean SFT is balanced in the same sense.

Checked (`numeric.py`), for REINFORCE, batch mean, RLOO, trajectory KL in the reward, GRPO (exact law: binary, `c =
0`), in a finite batch DAPO, Dr.GRPO and other deviations and counts as well: equal coefficients, their value `w` from
reward table, number of rounds and sums over prompts (groups of unequal size, weights that are no law), the replacement
by the causal advantage of that `w`. Controls: decision coefficient times 1.01 (in the coefficients, in a finite batch,
in the gradient); no baseline; no division by `T_i`; `V_t` for `V_(t+1)`.
"""

PLAIN = "reward puts one number on every factor"
STATEMENT = "one scalar weight per trajectory = one coefficient on every factor of pi_sample and pi_d"
ASSUMPTIONS = (
    "on-policy gradient of E[w sum_factors log pi], w data: any function of the whole trajectory",
    "the causal advantage is that of the payoff w, not of R",
)
