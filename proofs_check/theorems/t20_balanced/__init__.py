"""T20 [R] What "balanced" can mean.

*(a) An objective is* coefficient-balanced *if its derivative by log-probs is the same on all tokens of each
trajectory, at all log-probs: iff it depends on them through sequence sums alone. (b) It is* energy-balanced *if the
decision share does not change when tokens that nothing reads are appended to every answer. With `C(x, v)` the expected
sum of coefficients on draws of `v` in context `x` and `k(x, v) = C(x, v)/(n(x) phi(v | x))`, a filler token adds*

    e_f = sum over its contexts of n Var_phi(k),    share = E_d/(E_s + E_d + m e_f)

*for `m` of them, `E_s` that of all other tokens. (c) Neither follows from the other.* A filler token's context is what
its softmax conditions on; (b) is about saturated (position-wise) policies, up to a divisor that all tokens share.

| filler gets | who | the decision share |
|---|---|---|
| nothing: `e_f = 0` | a coefficient whose mean, given the filler's symbol, does not depend on it | does not change |
| nothing, but its number re-weights trajectories | the same over `T_i` (T13) | moves to a limit |
| `e_f > 0`, the same whatever `m` | a coefficient of the token's own log-prob; data of another law | falls as `1/m` |
| `e_f > 0`, and a price on each attempt | KL in the reward (T19) | tends to that of the price |
| something that depends on `m` | preference losses: all tokens of a pair meet in one sigmoid | whatever it is |

Which of them an objective is stands in the table of [objectives.md](objectives.md), for all that are registered;
`dsjax.atlas.classes` finds it for a loss of your own.

Proof. (a) If `O = g(S_1, .., S_B)` with `S_i = sum_t l_it`, then `dO/dl_it = dg/dS_i`. Conversely let the partials of a
trajectory be equal everywhere, and let `l`, `l'` have the same sums. Along the segment between them the derivative of
`O` is `sum_i dg_i sum_t (l'_it - l_it) = 0`, `dg_i` the common partial, so `O(l) = O(l')`: it is a function of the sums
(piecewise smooth is enough). (b) The gradient on the filler's logit `u` is `C(x, u) - phi(u) sum_v C(x, v) = n phi(u)
(k(u) - E_phi k)` and its Fisher block `n (diag phi - phi phi^T)`: energy `n Var_phi(k)` ("Score" above). Fisher
matrices of different softmaxes are different blocks, so energies add. If a coefficient's mean given the symbol does not
depend on it, `k` is constant. If it is a function of the token's own log-prob, or the data has another law, `k` is a
function of `v` that does not know `m`, and filler changes neither the gradient nor the visits of other tokens. (c) All
four occur: RLOO is both; SFT (all weights 1) is balanced by coefficients only; PPO with exact values by energy only;
KL in the loss by k2 is neither.

Precisions. (i) With a stop-gradient only one direction of (a) holds. `sg(sum_t l_t^2) sum_t l_t` has one coefficient on
all tokens everywhere and is no function of the sums: what must be one is the function of the log-probs that are not
stopped. (ii) Token ratios (GRPO, DAPO, Dr.GRPO, CISPO, REINFORCE++) are balanced on-policy and nowhere else, sequence
ratios and geometric means everywhere, clipped or not, `1/T_i` or not: a number that a trajectory's tokens share. (iii)
SFT and RFT are balanced at weight 1 of the decisions (`omega`, T5) only. (iv) KL in the loss by k1 is balanced, and has
no expected gradient to share. (v) DFT's filler gets `n Var_phi(nu)`, `nu` the demonstrations' law: nothing if that is
uniform. "In every process" is meant.

Checked (`numeric.py`): (a) for every registered objective, at the policy's log-probs and at random ones, near and far;
(b) for one objective of each kind, with up to two filler tokens; (c) by the lists. Controls: GRPO said to be balanced
off-policy; SFT with weight 2 on decisions; k2; equal coefficients with a stop-gradient said to be enough; `e_f` left
out; the variance under another law; trajectory KL and DPO said to give each filler token the same.
"""

PLAIN = "balanced by coefficient or by energy"
STATEMENT = "dO/dlogp the same on a trajectory iff O is a function of sequence sums; filler adds m n Var_phi(k)"
ASSUMPTIONS = (
    "(a) any log-probs, of any policy; an objective without stop-gradients for `only if`",
    "(b) filler that neither verifier nor decider nor sampler reads, one law for each of its tokens",
    "(b) position-wise policies: one softmax a position and prompt",
)
