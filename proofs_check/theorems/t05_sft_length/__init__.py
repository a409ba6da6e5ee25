"""T5 [P/R] Length weighting of SFT.

*Token-mean cross-entropy on demonstrations with law `nu`, `N_c` expected tokens of component `c`, `N = N_s + N_d`:
loss `= sum_c (N_c/N) x (mean NLL of a token of c)`; gradient at context `x`: `(n(x)/N) (nu(.|x) - pi(.|x))`; energy
`E_c = (1/N^2) sum_(x in c) n(x) chi2(nu(.|x) || pi(.|x))`. If `chi2 = k_s` in every sampling context and `k_d` in
every decision context, the decision share is `delta k_d / (L k_s + delta k_d)` with `delta = N_d/E[tau]` decisions per
answer: it falls as `1/L`. Weight `sqrt(L)` on decision tokens gives back the `L = 1` share; weight `L` makes loss
weights equal per factor.* Saturated policy, with or without history; Fisher matrix under the demonstrations' contexts.

Proof. The first two follow from `c = 1/N` per token and the score fact. The context's Fisher block is `n(x) (diag pi -
pi pi^T)`, and `g^T (diag pi - pi pi^T)^+ g = sum_v g_v^2/pi_v` for `g` that sums to 0: with `g = (n(x)/N)(nu - pi)`
that is the stated energy. With homogeneous mismatch the sums are `N_s k_s` and `N_d k_d`, where `N_s = L E[tau]`. A
weight `omega` multiplies the decision gradient by `omega` relative to the other, hence its energy by `omega^2`:
`omega^2 = L` cancels the `L`. An answer carries loss weight `L` and a decision `omega`, equal at `omega = L`, where
the share is `delta L k_d / (k_s + delta L k_d)`: more than at `L = 1`.

Precisions. (a) The normaliser `1/N^2` belongs to the energy (it cancels in shares). (b) `delta = 1 - P(tau = T)/E[tau]
<= 1`, because the forced stop of round `T` has no decision token. It is 1 iff no demonstration reaches round `T`, as
in T9; only then is the share `k_d/(L k_s + k_d)`. (c) For the same reason weight `L` equalises weights per *factor*,
not the totals of the two components: these are equal at `omega = L/delta`. (d) For a softmax that serves several
rounds `nu(.|x)` is the mixture of their laws, `sum_t n_t(x) nu_t(.|x) / n(x)`, as in the merged form of T3. Its energy
is at most `sum_t n_t chi2(nu_t || pi)/N^2`, what a softmax for each round would have (`chi2` is convex), and less
where the rounds differ.

Checked (`numeric.py`), with arbitrary laws on trajectories and with tilted policies of exactly constant `chi2`.
Controls: `omega = L` said to restore the share; Fisher matrix under the policy's own contexts; `delta = 1`, where
demonstrations reach round `T`; `1/N^2` left out.
"""

PLAIN = "decision share under SFT falls as 1/length"
STATEMENT = "SFT energy adds up over tokens: share delta k_d/(L k_s + delta k_d); weight sqrt(L) restores it"
ASSUMPTIONS = (
    "demonstrations from any law nu; loss and loss weights: any policy",
    "gradient and energies: saturated policy (with or without history)",
    "Fisher metric under the demonstrations' contexts",
    "homogeneous: chi2(nu || pi) = k_s in every sampling context, k_d in every decision context",
    "delta = decisions per answer (<= 1; 1 iff no demonstration reaches round T, whose forced stop has no token)",
)
