"""T14 [N] Signal-to-noise falls with length for the sampler, for a decider only if its contexts multiply.

*One trajectory of weight `w` contributes `g_c = w score_c`. Write `S_c = G_c^T F_c^+ G_c` for the signal, `M_c =
E[g_c^T F_c^+ g_c]` for the second moment. For any policy `M_c = E[w^2 z_c]` with `z_c = score_c^T F_c^+ score_c` and
`E[z_c] = rank F_c`: so `M_c = E[w^2] rank F_c + Cov(w^2, z_c)`, and `min w^2 rank F_c <= M_c <= max w^2 rank F_c`. A
position-wise sampler of `L` tokens over `V` symbols has `rank F_s = L (V-1)` a prompt; a decider has 1 for each
decision context: a number that does not grow with `L` if it reads a fixed part of the answer, and is `V^L` if it reads
all of it. With shared parameters neither rank exceeds their number. A token that neither verifier nor decider reads
adds exactly `(V-1) E[tau w^2]/E[tau]` to `M_s` and nothing to `S_s, S_d, M_d`. So from a length `L_0` on that holds
all tokens that are read, `S_s/M_s = S_s / (M_s(L_0) + (L - L_0)(V-1) E[tau w^2]/E[tau])` falls as `1/L`, `S_d/M_d`
stays, and `S_d/M_d > S_s/M_s` iff `L > L*`, `L* = L_0 + (S_s M_d/S_d - M_s(L_0)) / ((V-1) E[tau w^2]/E[tau])`.* One
prompt in the last two sentences (with several, `E[tau w^2]/E[tau]` is summed over prompts); `S_d > 0`; Fisher metric.

Proof. `E[z_c] = tr(F_c^+ E[score_c score_c^T]) = tr(F_c^+ F_c) = rank F_c`, because scores of different tokens are
uncorrelated (T1); `z_c >= 0` gives the two bounds. A softmax `pi` that is drawn `n` times with counts `N_v` has score
`N - n pi` and Fisher block `E[n] (diag pi - pi pi^T)`, hence `z = (sum_v N_v^2/pi_v - n^2)/E[n]`: `n/E[n]` times
Pearson's chi-square statistic of its counts, with mean `V - 1`. Position-wise, `F_s` has one such block a position,
and `z_s` is the sum over positions. A token that nothing reads is drawn `tau` times independently of `w`, `tau` and
all the rest, so `E[w^2 z_j] = E[w^2 tau (V-1)]/E[tau]`. The signals do not change (T4), nor does `M_d`. Setting the
two ratios equal gives `L*`, and `S_s/M_s` is decreasing in `L`.

What `~` means. (a) A context visited at most once has `M_x = sum_v (1 - pi(v)) E[w^2 | x, v]`: `V - 1` times the mean
of `w^2` under the *complementary* law `(1 - pi)/(V-1)`. For a decision, `pi_res E[w^2 | STOP] + pi_stop E[w^2 |
RESAMPLE]`: each branch is weighted by the probability of the other. `M_x = E[w^2] (V-1)` if `w^2` does not depend on
the draw. A binary verifier with `c = 0` and `J = 1/2` has `w^2 = 1/4` always: there `M_c = rank F_c / 4` exactly. (b)
Tokens that the verifier reads, but the decider does not: given the decisions they are independent over positions, and
`tau X^2` of one has variance `2 (V-1) tau (tau-1) + tau (sum_v 1/pi_v - V^2)`. By Cauchy-Schwarz `|M_s - L (V-1) E[tau
w^2]/E[tau]| <= sqrt(E[w^4] sum_j E[Var(tau X_j^2 | tau)]) / E[tau]`: of order `sqrt(L)` as long as token probabilities
stay away from 0. So `~` is a ratio that tends to 1 against the mean of `w^2` *per draw*, `E[tau w^2]/E[tau]`, not per
trajectory. (c) Whatever is read: with a binary verifier and `c = 0`, `S_c <= J (1-J)` (T3), so `S_c/M_c <=
max(J/(1-J), (1-J)/J) / rank F_c`.

Baselines and groups. A constant baseline does not change `S_c` and gives `M_c(base) = M_c(base*_c) + rank F_c (base -
base*_c)^2` with `base*_c = E[R z_c]/rank F_c`, one optimum for each component. Leave-one-out in a group of `G`: the
mean of the `G` contributions has signal `S_c` and noise (second moment less signal) `(1/G) [M_c - S_c + (Var(R) rank
F_c + S_c)/(G-1)]`, with `M_c` at `w = R - J`. Proof: `w_1 = a_1 - mean of the other a_k`, `a = R - J`; the others are
independent of `score_1`, so `E[w_1^2 z_1] = M_c + Var(R) rank F_c/(G-1)`; in `E[w_1 w_2 score_1^T F^+ score_2]` only
`a_1 a_2 (1 + 1/(G-1)^2)` survives, which gives `S_c (1 + 1/(G-1)^2)`. A group mean that includes the member itself
scales signal and noise alike, by `((G-1)/G)^2`. Without baseline the noise is `(M_c(0) - S_c)/G`. Signal over noise
grows as the number of independent trajectories for both components, so their order, and `L*`, do not depend on that
number; a baseline moves `L*` because it changes `M_s` and `M_d` by different factors.

Precisions. (a) "Independent of `L`" is about the *number of decision contexts*: a decider with a softmax for every
answer has `V^L` of them, and its ratio falls exponentially. (b) Where no token is unread `L*` need not exist; where
`S_d = 0` (the decider reads nothing that says how good the answer is) there is none. The more decisive the decider,
the smaller `S_d` and the larger `L*`. (c) The law is about one weight per trajectory. With each token's own causal
advantage as weight a filler token has weight 0 and adds no noise: `S_s/M_s` then does not fall. The answer's advantage
on each of its tokens does not help: the noise is that of `L` tokens. (d) One softmax tied over all positions has rank
`V - 1` at every length, but its signal falls as `1/L`: the ratio is the same as untied. (e) All of this is the ratio
of the sampled gradient; how fast a component is learned also depends on the step it takes.

Checked (`numeric.py`): rank (counted, not measured; a bound for networks), bounds, both closed forms (from counts,
without scores, objectives or Fisher matrices), one coefficient per token, the `sqrt(L)` bound, filler, crossing,
parabola of the baseline, all pairs of a group. Triples, tied positions and hand-computed values are tests. Controls:
`~` read as `=`; filler drawn once a trajectory; a decider that can read the filler; `E[w^2 | x, v]` averaged under
`pi`; `M_c` independent of the baseline; leave-one-out as good as `J`; members of a group taken as independent. Map of
`L*` against the decider's and the sampler's accuracy: `boundary.py`.
"""

PLAIN = "noise grows with length where rank does"
STATEMENT = "M_c = E[w^2 z_c], E[z_c] = rank F_c: L (V-1) for pi_sample, decision contexts for pi_d, <= parameters"
ASSUMPTIONS = (
    "position-wise sampler; the number of decision contexts does not depend on L",
    "one coefficient per trajectory; Fisher metric",
    "crossing: S_d > 0",
    "exact 1/L law: tokens that neither verifier nor decider reads; signal bounded by Var(R) (T3)",
)
