"""T11 [N] The KL-regularised optimum tilts both components alike.

*The maximiser of `J - beta KL(P || P_ref)` is the soft-Bellman policy: `pi_d* ~ pi_ref exp(Q*/beta)` with `Q*(STOP) =
r`, `Q*(RESAMPLE) = V*_(t+1) - c`, `U* = beta log E_ref[exp(Q*/beta)]`, and `pi_sample* ~ pi_ref exp(U*/beta)` with
`V* = beta log E_ref[exp(U*/beta)]`. For every policy `J - beta KL(P || P_ref) = E_q[V*_1(q)] - beta KL(P || P*)`. Per
factor, answer or decision, `|log(pi*/pi_ref) - A/beta| <= W^2/(8 beta^2)` with `A` the advantage under `pi_ref` and
`W = 1 + c (T - t)` the range of the return to go; and `KL(P* || P_ref) <= W^2/(8 beta^2)` with `W` of round 1. No `L`
occurs.*

Proof. Unroll the recursion: `V*_1(q) = beta log E_ref[exp(R/beta) | q]`, and the product of the tilted factors is
`P*(xi) = P_ref(xi) exp((R(xi) - V*_1(q))/beta)`. So `R - beta log(P/P_ref) = V*_1(q) - beta log(P/P*)` on every
trajectory; take the mean under `P`. The last term is 0 only at `P = P*`, so `P*` is the only maximiser. There `R -
beta Lam = V*_1(q)` without variance: no trajectory pushes anything. Tilt: exactly `log(pi*/pi_ref)` is the *soft*
advantage over `beta` (`(U* - V*)/beta` for an answer, `(Q* - U*)/beta` for a decision). For a payoff `X` with range
`W`, Jensen and Hoeffding's lemma give `0 <= beta log E[exp(X/beta)] - E[X] <= W^2/(8 beta)`. With `X` the return to go
under `pi_ref`, each of `Q*, U*, V*` exceeds its hard value by a number in that interval, and a difference of two such
numbers is at most `W^2/(8 beta)`. KL: with `psi(s) = log E_ref[exp(s R/beta) | q]` it is `psi'(1) - psi(1) = int_0^1 s
psi''(s) ds`, and `psi''`, the variance of a variable of range `W/beta`, is at most `W^2/(4 beta^2)`.

Against T6 and T7. At a given drift per token the KL of an answer and the tax `K` grow as `L`. At the optimum the tilt
of an answer is that of a one-token answer with the same law of rewards, shared out over its `L` tokens. So the drift
per token falls as `1/L`, and `beta K <= W^2/(8 beta)` for every `L`. The gradients of `J` and of `beta KL` are equal
there, so the trajectory KL has the energies of the reward over `beta^2`, which do not depend on `L` (T4). The *length*
asymmetry belongs to the penalty's gradient on the way, not to the optimum, if the class of policies contains `P*`
(precision (b)).

Precisions. (a) The values are soft values of the optimum; the hard values of `pi_ref` give only the first order (a
control). (b) The policy must see round and history. Without history one law serves all rounds, while the tilts `U*_t`
and `r` differ from round to round: `P*` is in the class if `T = 1`, otherwise only by coincidence. The soft-Bellman
tilt of round 1 used in every round has a gradient, and its objective is less than the soft value by `beta KL(P ||
P*)`. At the best policy within the class the advantage of `R - beta Lam` is 0 on visit-weighted average over the
rounds, not in each round; a test finds it and keeps it. (c) The bound on the tilt cannot be improved: for a fair coin
between 0 and 1 soft less hard value tends to `1/(8 beta)`. (d) "Alike" is per factor. Per token an answer's tilt is
spread out.

Checked (`numeric.py`): gradients, constancy of `R - beta Lam`, value, regret of arbitrary policies (with and without
history), tilts, KL. Controls: `beta` 1% off; tilt by hard values; decider left at its reference; the tilt of round 1
in every round of a policy without history; penalty left out of the objective; advantage over `beta` on each token.
Boundary (`boundary.py`): KL per factor and decision share of the KL gradient against `L`, at a given drift and at the
soft optimum.
"""

PLAIN = "the KL optimum tilts both components alike"
STATEMENT = "argmax J - beta KL(P || P_ref): pi_ref exp(advantage/beta) on every factor, to first order, whatever L"
ASSUMPTIONS = (
    "trajectory KL; tables with a law of its own for each round and history (saturated, history `full` or T = 1)",
    "exactly: soft advantages; to first order: those of the reference, to W^2/(8 beta^2) in log-probability",
    "W = 1 + c (T - t): range of the return to go",
    "regret = beta KL(P || P*) holds for every policy, saturated or not",
)
