"""T23 [N] Success rates for rewards, and baselines weighted by length.

*On-policy, sum over the tokens of a sequence, groups of `G`. (a) MaxRL, `A = (R - m)/(m + epsilon)` with `m` the
group's mean, own return included; binary verifier, `c = 0`. At `epsilon = 0` the expected gradient at a prompt is
`c_G(p) grad p` in both components, `c_G = (1 - (1-p)^(G-1))/p = sum_(k=1)^(G-1) (1/k) d pass@k/dp`, `pass@k =
1 - (1-p)^k`: it ascends `sum_(k<G) pass@k/k`. With epsilon, `c = E[m (1-m)/(m + epsilon)] / (p (1-p))`. So component
shares at a prompt are those of REINFORCE. `c_2 = 1`; `1 <= c_G <= min(G-1, 1/p)`; it grows with `G`, and tends to
`1/p`. (b) OPO, `A = R - sum_j T_j R_j / sum_j T_j`, own return included, `T_j` tokens; any verifier, any cost. Given
its own return and stopping round, a trajectory has the expected advantage*

    R (1 - s_tau) - g_tau,   s_tau = E[n_tau / (n_tau + N)],   g_tau = E[sum of the others' T_j R_j / (n_tau + N)]

*with `n_t = t (L+1) - 1[t = T]` and `N` the number of tokens of the other `G-1`. For `T = 1` that is `(G-1)/G` of
REINFORCE, for `T >= 2` no multiple of `grad J`. For `T = 2`, memoryless attempts, each right with probability `p_1`,
a binary verifier and `c = 0`, pushes on STOP are those of REINFORCE times one factor at right answers and another one
at wrong answers of a prompt,*

    factor(wrong) - factor(right) = (a - b) (G-1) n_1 E[1/(2 n_1 + N') - 1/(n_1 + n_2 + N')]

*`N'` the tokens of `G-2` trajectories: the right ones are the smaller iff `a > b`. For `G = 2` the difference is
`(a - b) L/(2 (3 L + 2))`.*

Proof. (a) As in T12 `p (1-p)` times the slope of `A` in `R` is the mean over a group of `A_i (R_i - m)`, here `m
(1-m)/(m + epsilon)`. At `epsilon = 0` that is `1 - m` where a member is right: `E[1 - m] - P(none is right) =
(1-p) - (1-p)^G`, and division by `p (1-p)` leaves `(1 - (1-p)^(G-1))/p`, a geometric sum `sum_(k=1)^(G-1)
(1-p)^(k-1)`, in which each term is `(1/k) d pass@k/dp` and lies in (0, 1]. (b) The others are independent of the own
trajectory, which gives the formula; `s = 1/G` and `g = (1 - 1/G) J` if all have the same length. Put `T = 2` and `x =
p_1 (1-s_2) + g_1 - g_2`. At a right answer STOP gets `(1-s_1) - g_1 - p_1 (1-s_2) + g_2 = (1-s_1) - x` for
REINFORCE's `1 - p_1`; at a wrong one `-x` for `-p_1`. So the factors differ by `(x - p_1 (1-s_1))/(p_1 (1-p_1))`. A
member has `E[R | tau = 2] = p_1` and `P(tau = 1) (E[R | tau = 1] - p_1) = p_1 (1-p_1) (a-b)`. With `p_1` in place of
the others' `R_j`, `g_t` is `p_1 (1-s_t)`; their excess at `tau = 1` adds `p_1 (1-p_1) (a-b) (G-1) n_1 E[1/(2
n_1 + N') - 1/(n_2 + n_1 + N')]` to `g_1 - g_2`, and that is all that is left of `x - p_1 (1-s_1)`.

Precisions. (a) MaxRL weighs a rare success up to `G-1` times, GRPO (T12) up to `sqrt(G-1)` times; both are pass@1 at
`G = 2`. For a graded verifier or `c > 0` there is no factor, and a negative mean would turn the sign of every
advantage (the library gives 0). (b) With `L = 5`, `G = 2`, `p_1 = 1/2`, `a = 0.7`, `b = 0.5` the factors are 0.544 at
right and 0.574 at wrong answers; with `L = 50`, `G = 4`, 0.791 and 0.813. A deciding policy thus has its STOP at
right answers pushed less than its RESAMPLE at wrong ones. The bias is of order `1/G`. The same baseline of the others
alone is unbiased, as every baseline that does not know the own trajectory. (c) Own return in a baseline that does not
weigh lengths does no harm but `(G-1)/G` (T12).

Checked (`numeric.py`), with the library's advantages on exact laws, whose lengths of groups come from a Fourier
transform there and from all tuples of stopping rounds here. Controls: pass@1 alone; one `pass@k` fewer; epsilon left
out; own return left out of OPO's baseline; forced stop counted as a token; OPO a multiple of `grad J`; one factor for
right and wrong answers. Groups written out one by one are tests.
"""

PLAIN = "MaxRL ascends pass@k; OPO tilts decisions"
STATEMENT = "MaxRL: c_G(p) grad p, c_G = (1-(1-p)^(G-1))/p; OPO: R (1-s_tau) - g_tau, no multiple of grad J"
ASSUMPTIONS = (
    "on-policy, sum over the tokens of a sequence, own return in the group's statistic",
    "MaxRL: binary verifier, c = 0, epsilon = 0 (or with its own factor); a group without success gives 0",
    "OPO: T >= 2; factors of STOP for T = 2, memoryless attempts, a binary verifier and c = 0",
)
