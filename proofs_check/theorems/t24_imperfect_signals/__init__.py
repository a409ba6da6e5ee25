"""T24 [N] Imperfect signals: flipped labels, a discount, stale trajectories.

*(a) Flips. The label that training sees is "right" with probability `e0` after a wrong answer and "wrong" with
probability `e1` after a right one, whatever the answer; `e0 + e1 < 1`. Then `J_c` becomes `e0 + (1 - e0 - e1) J_C`
with the price `C = c/(1 - e0 - e1)`: at `c = 0` the gradient is multiplied by `1 - e0 - e1` and the shares stay. GRPO's
gradient at a prompt becomes `(1 - e0 - e1) c_G(p~) grad p` with `p~ = e0 + (1 - e0 - e1) p`. (b) Flips `e0(y)`,
`e1(y)` that depend on the answer turn T8's sign (`c = 0`): at a wrong answer iff `e0(y) > V~`, at a right one iff `1 -
e1(y) < V~`; `V~` is the value of going on, counted in labels. (c) A discount `gamma` per token puts the threshold of
STOP at the discounted value of going on, `D_t = gamma^(L+1) E[pi_stop R + pi_res D_(t+1)]`, and `gamma^L E[R]` before
the forced stop. Binary verifier, `c = 0`: the push to RESAMPLE at wrong answers shrinks by `gamma^L` at least, that to
STOP at right ones grows. (d) On trajectories of an older policy, token ratios give a STOP logit the old visits and the
old value of going on, `rho_old pi_stop pi_res (r - V_old + c)`. At the first decision the visits lag by the product of
`L` ratios, one for each token of the answer. Sequence ratios give `grad J`. Sequence rules, clipped, truncated or not,
put one coefficient on all tokens of a trajectory; token rules do not.*

Proof. (a) `E[label | xi] = e0 + (1 - e0 - e1) r`, so the mean return is affine in that of `r`. Given its own label a
trajectory has GRPO's advantage at success rate `p~`, which is `c_G(p~)` higher for the label "right" (T12); its mean is
a constant plus `c_G(p~) (1 - e0 - e1) r`. (b) T8 with the table `r~(y) = E[label | y]` in place of `r`: the push per
visit is `r~(y) - V~`, and `r~` is `e0(y)` at a wrong and `1 - e1(y)` at a right answer. (c) The return is paid at the
last token drawn. After STOP that is the decision itself: no discount. After RESAMPLE a round takes `L + 1` tokens, the
last one `L`, since a forced stop is no token. At a wrong answer the push is `-D`, and `D` is at most `gamma^L` times
the undiscounted value; at a right one it is `1 - D`. (d) A token's ratio replaces the old probability of that draw by
the new one, and nothing else: `rho_old(x) sum_d pi(d | x) Q_old(x, d) grad log pi(d | x)`. `rho/rho_old` is the product
of the ratios of all draws on the way. With the ratio of the whole sequence every old probability is replaced. The
derivative of a function of `sum_t log pi_t` is the same for each of its terms; that of a sum over functions of single
terms is not.

Precisions. (a) With `e0 + e1 > 1` the gradient points the other way. Noise of a sampled gradient is not multiplied: it
has the variance of the label too. (b) Without history a logit serves several rounds, and `V~` is the mean over its
visits. Flips that do not depend on the answer never turn a sign: `V~ = e0 + (1 - e0 - e1) V` lies between `e0` and `1
- e1`. (c) So the threshold is not `gamma^(L+1) V` with the undiscounted `V`: later rounds are discounted again, and
before the forced stop it is `gamma^L V`. Of the decisions RESAMPLE alone is starved; answer tokens are too, by their
distance from the end, `gamma^(L-j)` at token `j` of round `T`. (d) A token rule loses the balance of a trajectory even
without a clip, as soon as its ratios differ.

Checked (`numeric.py`), with the library's objectives on the law of trajectories with labels, and on the law of an older
policy. Controls: the factor, and the price, left out; GRPO's factor at the true success rate; T8's sign whatever the
flips; `V` for `V~`; undiscounted values; `gamma^(L+1)` before the forced stop; a discount that shrinks pushes at right
answers; the new policy's visits, and its values; token ratios said to give `grad J`; truncated and masked token weights
said to keep balance.
"""

PLAIN = "flips scale reward, a discount taxes RESAMPLE"
STATEMENT = (
    "flips: (1 - e0 - e1) grad J at price c/(1 - e0 - e1); discount: threshold gamma^(L+1) V; stale: rho_old, V_old"
)
ASSUMPTIONS = (
    "labels drawn given the answer alone, once a trajectory; GRPO: binary verifier, c = 0",
    "signs under noise and discount: binary verifier, c = 0",
    "STOP logits: a free one for each context of the decider",
    "stale: an older policy with the same support, no ratio over exp(20); advantage = return",
)
