"""T15 [N] Ratio clipping binds on pi_d first, where pi_d is less peaked.

*Let a token be drawn with probability `pi = 1 - x` from a softmax whose logits then change by `dz`, `W = max dz - min
dz`. Whatever the number of choices, `-log(1 + x (e^W - 1)) <= log ratio <= -log(1 - x (1 - e^-W))`, and some step of
that range attains each side. After a gradient step `dz = g A (e_v - pi)` on the draw itself, a decision has `1/ratio =
1 - x (1 - exp(-2 g A x))`, and a token moves between what a decision of its probability moves at `g/2` and at `g`. So
a decision with `x_d >= x_s` moves at least as far as the token, and is clipped no later; a token with `x_s >= sqrt(2)
x_d` (`A > 0`) or `x_s >= 2 x_d` (`A < 0`) moves at least as far as the decision.* Each softmax drawn from once;
`ratio` after over before the step.

Proof. `1/ratio = E_pi[exp(dz_u - dz_v)] = 1 - x + x m`, where `m` is the mean of `exp(dz_u - dz_v)` over the other
symbols. `m` lies in `[e^-W, e^W]`, and at an end of it if all others change alike: that is the first claim, with no
room for `V`. For the gradient step `dz_u - dz_v = -g A (x + pi_u)` with `0 <= pi_u <= x`, so `m` lies between `exp(-g
A x)` and `exp(-2 g A x)`, and reaches the second iff one other symbol has all the rest, as for a decision. `x (1 -
exp(-2 g A x))` is increasing in `x` for `A > 0` and its negative for `A < 0`, which gives the order for `x_d >= x_s`.
The other way round, with `a = g |A|`: for `A > 0` it is enough that `sqrt(2) (1 - exp(-sqrt(2) a x)) >= 1 - exp(-2 a
x)`, true at `a = 0` and with the larger derivative after it; for `A < 0`, `x_s (exp(a x_s) - 1) >= 2 x_d (exp(2 a
x_d) - 1)` at `x_s >= 2 x_d`.

Clipping. GRPO drops a token's gradient once `A > 0` and `ratio > 1 + eps`, or `A < 0` and `ratio < 1 - eps`. For a
decision that happens from `g* |A| = -log(1 - e/x)/(2 x)`, `e = eps/(1 + eps)`, upwards, and never for `x <= e` (`pi >=
1/(1 + eps)`: no ratio exceeds `1/pi`); for `A < 0` from `g* |A| = log(1 + e/x)/(2 x)`, `e = eps/(1 - eps)`. A token
over `V` symbols with equally likely others has `V/(V-1)` in the place of 2.

Sequence-level ratios. The geometric mean over the `N` tokens of a sequence has `log ratio = (1/N) sum_t log ratio_t`:
what the decisions move counts `1/N`, `N = L tau + number of decisions`. Its clip drops all tokens of a sequence or
none, so it binds on no component first. If the decision alone moves it binds from `|log ratio_d| = N |log(1 +- eps)|`,
which for `A > 0` is out of reach once `(1 + eps)^N > 1/pi`.

Precisions. (a) First wording: "the ratio of a binary decision moves further than that of a token in a peaked `V`-way
softmax". What counts is `1 - pi` of what was drawn, not `V`: a decision with `pi_stop = .99` moves no further than a
token with `pi <= .98` and is not clipped before it. Being binary is worth a factor 2 in the step at most, which is
`sqrt(2)` in `1 - pi` for small steps. (b) To first order `log ratio = g A |e_v - pi|^2`, with `|e_v - pi|^2 = 2 x^2`
for a decision and `x^2 + sum of the other pi_u^2` for a token: the boundary is where these agree, `x_d = x_s
sqrt(V/(2(V-1)))` for equally likely others. (c) `log ratio <= x W`, but `-log ratio` can exceed `x W`; it is at most
`x (e^W - 1)`. (d) The bound by the range `W` needs no saturation: it holds for shared parameters and for any step. A
step in which every logit moves by `+-eta` in the direction of the sign of its gradient (the first step of Adam)
attains it, with `W = 2 eta`. (e) The sequence-level dilution is `1/N`, not `1/L`, and belongs to the geometric mean:
the product of the ratios adds up all log-ratios and dilutes nothing. The article's clip for GSPO is some 500 times
narrower than GRPO's, which undoes a dilution by 500 tokens: the comparison above is at equal clip.

Checked (`numeric.py`): what is dropped is read off the coefficients that the library's GRPO gives after the step
(exact zeros), on both sides of `g*`. The geometric mean is GSPO's, with GRPO's clip. Controls: `1 - 1/V` for `x`; `x
W` in both directions; a token said to move as far as a decision; the decision said to move further whatever its
probability; clip at `|log ratio| = eps`; dilution by `1/L`. Map in (`1 - pi` of the decision, `1 - pi` of the token,
`V`): `boundary.py`.
"""

PLAIN = "clipping binds first on what is less peaked"
STATEMENT = "-log(1 + x (e^W - 1)) <= log ratio <= -log(1 - x (1 - e^-W)), x = 1 - pi: what is less peaked clips first"
ASSUMPTIONS = (
    "W: range (largest less smallest) of the logits' change in the softmax that the token is drawn from",
    "steps on one trajectory: one softmax per context, each visited once",
    "clip of each token's own ratio (GRPO); binary verifier, c = 0, group of two",
)
