"""T21 [N] The shared trunk: length invariance is lost in the step, not in the gradient.

*Both components take one step; `G = G_s + G_d`, `F = F_s + F_d`. (a) `G^T F^+ G <= E_s + E_d`, and the gap is `sum_c
(u_c - x)^T F_c (u_c - x)`, with `x = F^+ G` the common natural step and `u_c = F_c^+ G_c` that of a component alone:
energy that no common step can use (conflict). It is 0 iff one step serves both: for separate parameters, and wherever
`rank F = rank F_s + rank F_d`. (b) Append to every answer `m` tokens that nothing reads, written with the same
parameters, each with Fisher matrix `Phi`. `G_s` and `G_d` stay, `F` becomes `F + m Phi`. With generalised eigenvalues
`phi_i` of `Phi` against `F`, the part of a component in the gain of the natural step is*

    G_c . x = sum_i gamma_ci / (1 + m phi_i),   gamma_ci = (v_i . G_c) (v_i . G)
    Phi v_i = phi_i F v_i,   v_i . F v_i = 1

*so the gain does not increase with `m`, and both parts fall as `1/m` along the directions that `Phi` loads; where
filler is as random as a token of the answer, `Phi <= F`, no faster than `1/(1 + m)`. A decision with parameters of
its own keeps its part, `E_d`, at every `m`. (c) Steps that ignore size. `x = sign(G)` and its parts do not know `m`;
its KL, `x^T (F + m Phi) x/2`, grows with `m`. Adam on batches of `n` trajectories divides by the root of
`G_j^2 + (M_j - G_j^2 + m Psi_j)/n`, `M` the second moment of one trajectory's gradient and `Psi = E[w^2 sum over
attempts of a filler token's score^2]`: parts fall, as `1/sqrt(m)` on the parameters that filler moves, once noise is
what it divides by. The weight `lambda` of decisions: `G_d . sign(G_s + lambda G_d)` does not fall in `lambda`, and
for separate parameters does not feel it.*

Proof. (a) `(g, F) -> g^T F^+ g = max_x (2 g . x - x^T F x)` is a maximum of linear functions, hence convex in both
arguments together, and homogeneous: so subadditive. Or at once: `G_c = F_c u_c` (T1's scores span `G_c`) and `F x =
G` give `sum_c (u_c - x)^T F_c (u_c - x) = E_s + E_d - 2 x . G + x . F x = E_s + E_d - G . x`, which is 0 iff `F_c x =
G_c` for both. (b) The return does not depend on filler, whose score has mean 0 given all else: no gradient (T4). Its
Fisher matrix adds up over tokens. On the range of `F + Phi` both matrices are diagonal in one basis, and `G`, in the
range of `F`, has no part where `F` has none. `Phi <= F` says `phi_i <= 1`. With separate parameters `Phi` has no
entry in the decision's block. (c) `sign` sees `G` alone. In `E[(w S + w sum of filler scores)^2]` all products of
different tokens of filler, or of filler with the rest, have mean 0. `lambda -> |G_s + lambda G_d|_1` is convex and
`G_d . sign(G_s + lambda G_d)` its derivative; where no parameter has both gradients it is `|G_d|_1`.

Precisions. (a) So under reward T4 holds for coefficients, gradients and saturated energies, while a trust-region step
(improvement `sqrt(2 kl G^T F^+ G)` at a given KL) of a shared trunk pays for length: it starves whatever shares
directions with the answer's tokens, pi_sample as well as pi_d. A part, or the share of the decision, may also rise:
`gamma_ci < 0` where a component pushes against the other one, and filler takes that direction away (with `F = 1`,
`Phi = diag(1, 0)`, `G_s = (2, 1)`, `G_d = (-1, 1)` the decision's part goes from 1 to 2, while the gain falls from 5
to 4). If filler shares parameters with pi_sample alone, only that part falls, and the share of the decision tends to
1. (b) To share parameters is not enough. With at least as many generic parameters as both components have free
directions, filler included, none serves both: there is no conflict, and the decision's part is `E_d` at every `m`, as
for separate ones. Crowding is what costs. Conflict is not needed: the gain falls too where both components want the
same step. (c) A sign step undoes a small weight of decisions (T5) on parameters that decisions have for themselves,
and does not where they share them.

Checked (`numeric.py`): the library's gradients, Fisher matrices and natural step, on shared parameters (fewer and
more than free logits), tables and transformers, filler being drawn by the law of the answer's first token: enumerated
for one token, then `F + m Phi` for up to 64. Controls: no conflict with few shared parameters; conflict as what the
decision alone loses; filler adds nothing to `F`, or is taken from it; a decision's part that does not change with `m`
with few shared parameters; `Psi = E[w^2] Phi`; a sign step for a natural one. Gain against filler, by kind of policy
and step: `boundary.py`.
"""

PLAIN = "shared steps pay for length, gradients do not"
STATEMENT = "G^T (F_s + F_d)^+ G <= E_s + E_d; unread filler: same G, F + m Phi, so gains fall as 1/m"
ASSUMPTIONS = (
    "any parametrisation, on-policy; one step for both components",
    "filler: read by nothing, written with parameters of the answer, the same Phi for each token",
    "Adam: running means at their expectation, G and noise as they are",
)
