"""T12 [N] GRPO is balanced inside a trajectory and re-weights prompts.

*Binary verifier, `c = 0`, group size `G`, on-policy, sum over the tokens of a sequence. The expected gradient at a
prompt is `c_G(p) grad p` in both components, `c_G(p) = E[std_G] / (p (1-p))` with `std_G = sqrt(k (G-k))/G`, `k ~
Bin(G, p)`; with epsilon, `E[std_G^2/(std_G + epsilon)] / (p (1-p))`. So component shares at a prompt are those of
REINFORCE. For `0 < p < 1`: `c_2 = 1` and `c_3 = sqrt(2)` whatever `p`; `2 (G-1)/G < c_G < sqrt(G-1)` for `G >= 4`;
`c_G` grows with `G`; `1 - (1 + 1/(p (1-p)))/(2 G) < c_G sqrt(p (1-p)) < sqrt(1 - 1/G)`, so it tends to `1/sqrt(p
(1-p))`. Group mean without std: `(G-1)/G`; leave-one-out: exactly 1 (any verifier, any cost).*

Proof. The score of one member does not depend on the others, so the expected gradient is `E[A(R) grad log P]`, with
`A(R)` the expected advantage given one's own return. `R` takes two values, so `A(R) = A(0) + (A(1) - A(0)) R` and the
gradient is `(A(1) - A(0)) grad p`. Multiply the slope by `Var(R) = p (1-p)`: it is `E[A_i (R_i - p)]`. By symmetry
that is the mean over the members; their `A_i` add up to 0, so `p` may be replaced by the group's mean `m`, and `(1/G)
sum_i A_i (R_i - m) = std^2/(std + epsilon)`. For the group mean, `R_i - m = (G-1)/G (R_i - mean of the others)`.

Bounds. For `1 <= k <= G-1`: `G - 1 <= k (G-k) <= G^2/4`, hence `2 k (G-k)/G <= sqrt(k (G-k)) <= k (G-k)/sqrt(G-1)`;
`E[k (G-k)] = G (G-1) p (1-p)`. Both are equalities for `G = 2`, the upper one for `G = 3`; for `G >= 4` both are
strict. Growth: `std` is `f(x) = sqrt(x (1-x))` at the group's success rate, which is the mean of the success rates
with one member left out; `f` is concave, strictly. Limit: put `v = p (1-p)`, `s = x (1-x)/v`. Jensen gives `E[sqrt(s)]
< sqrt(E s) = sqrt(1 - 1/G)`. Below, `sqrt(s) >= 1 + (s-1)/2 - (s-1)^2/2`, and `x (1-x) - v = (x-p)(1-p-x)` gives
`E[(s-1)^2] <= E[(x-p)^2]/v^2 = 1/(G v)`.

Precisions. (a) For `G <= 3` nothing is re-weighted: `c_G` does not depend on `p`. (b) For `G >= 4` the weight of rare
successes is capped: `c_G -> sqrt(G-1)` as `p -> 0`, while the limit `1/sqrt(p (1-p))` is unbounded. It is close to
that limit once `G p (1-p)` is large. (c) The sum over tokens matters. The usual sequence mean divides by `T_i`, which
depends on the decisions: for `T >= 2` no factor makes it `grad p` (it is T13 with `base = p`). For `T = 1` it is
`c_G/L`. (d) Across prompts the shares do change: the sum is `sum_q mu(q) c_G(p_q) grad p_q`, no multiple of `grad J`
unless all `c_G(p_q)` agree. (e) A graded verifier (or `c > 0`) has more than two returns, `A` is not affine in `R` and
there is no factor. Signs of T8 can flip: for `G = 2`, `A(R) = P(R lower) - P(R higher)` is a matter of ranks, and an
answer above most others but below the mean is pushed to STOP. `tests/proofs_check/test_t12_grpo.py` keeps such an
instance, and all groups of 2 and 3 written out.

Checked (`numeric.py`): gradients of each component through the library's advantage on the exact law (`G = 4`), also
with shared parameters; both energies against T3; the factor for `G` in 2, 3, 4, 8, 64. Controls: the limit at `G = 4`;
`c_(G-1)`; energies without the factor; epsilon left out; sequence mean for `T >= 2`; one factor for all prompts; group
mean said to be unbiased; standard deviation over `G - 1`.
"""

PLAIN = "GRPO re-weights prompts, not components"
STATEMENT = "E[GRPO] at a prompt = c_G(p) grad p, c_G = E[std_G]/(p(1-p)): 1 at G=2, tends to 1/sqrt(p(1-p))"
ASSUMPTIONS = (
    "on-policy, binary verifier, c = 0; population standard deviation, groups without spread give 0",
    "sum over the tokens of a sequence: dividing by T_i is T13, and harmless for T = 1",
    "a prompt whose p is 0 or 1 has no gradient; the bounds are for 0 < p < 1",
)
