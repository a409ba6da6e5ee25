"""T3 [N] Conservation of reward energy.

*`Var(R) = Var_q[V_1(q)] + sum_t E[(A^s_t)^2] + sum_t E[(A^d_t)^2]`. For any parametrisation `E_c(grad J) <= sum_t
E[(A^c_t)^2]`, with equality if each context has a softmax for each round. So `E_s + E_d <= Var(R)`, and `Var(R) <=
1/4` for rewards in [0, 1] and `c = 0`, whatever `L`, `V`, `T`.*

Proof. `R - J = (V_1(q) - J) + sum_t A^s_t + sum_t A^d_t` telescopes, since each term is the change of the conditional
mean of `R` as one more variable is revealed. Such changes are uncorrelated, so variances add. By T2, `G_c` is the
gradient with coefficient `A^c`. The projection fact gives the bound, and equality if `A^c` is in the span of the
scores. For the sampler, `A^s_t` of a whole answer is itself a sum of token-level changes with the same total square,
each in the span of a softmax per prefix. A variable in [0, 1] has variance at most `J (1 - J) <= 1/4`.

Precision. "Saturated" must include the round. Without history the tabular policy has one softmax for all rounds, while
`A^c_t` depends on the round. The projection then averages: with `m_t(x, v)` the probability of drawing `v` in `x` at
round `t`, `E_c = sum_(x, v) (sum_t m_t A_t)^2 / sum_t m_t`. That equals the bound iff `A_t` is the same in all rounds
that visit the context. So equality holds for the sampler iff `T = 1` and for the decider iff `T <= 2` (it does not act
in round `T`), up to coincidences; otherwise the inequality is strict. The closed form and the strict slack are both
checked.

Checked (`numeric.py`), the return from reward table and number of rounds; equality also in parameters whose features
are nearly collinear (a Fisher matrix with a condition of 10^7). Controls: `V_t` for `V_(t+1)`; `Var_q` left out;
equality claimed for a policy that cannot see the round, and for shared parameters; nearly collinear features as one.
"""

PLAIN = "reward energies add up to return variance"
STATEMENT = "Var(R) = Var_q[V_1] + sum E[(A^s)^2] + sum E[(A^d)^2] >= Var_q[V_1] + E_s + E_d; = if saturated"
ASSUMPTIONS = (
    "any parametrisation for the bounds",
    "equality: one softmax per context and round (history `full`; or T = 1 for pi_sample, T <= 2 for pi_d)",
)
