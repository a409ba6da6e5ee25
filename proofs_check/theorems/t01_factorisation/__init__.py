"""T1 [R] Factorisation.

*`grad J = G_s + G_d` with `G_c = E[R sum_c grad log pi_c]`, and `E[score_s score_d^T] = 0`, so `F = F_s + F_d`.*
Parameters may be shared between the components.

Proof. `log P(xi)` is `log mu(q)` plus the sum of all log factors, and `grad J = E[R grad log P]`; group the factors by
component. For the second part, order the factors of a trajectory in time. Given everything before it, a factor's score
has mean 0. Of two different factors the later one has conditional mean 0 while the earlier one is already known, so
their product has mean 0. Summing over pairs leaves only the diagonal: cross terms between components vanish, and so do
those inside a component. Sharing parameters changes the score vectors but not this argument.

Checked (`numeric.py`): each component against autodiff of the exact `J` with the other component frozen, `J` from the
reward table and the number of rounds; the sum against central differences; both second-moment identities. Controls:
the forced stop counted as a decision; another answer's reward; cost left out of the return; trajectories weighted by a
policy 1% away.
"""

PLAIN = "the gradient splits over both components"
STATEMENT = "grad J = G_s + G_d with G_c = E[R sum_c grad log pi_c], and E[score_s score_d^T] = 0"
ASSUMPTIONS = ("finite process, parameters shared or not", "the stop at round T is forced: no decision factor there")
