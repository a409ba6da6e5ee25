"""T18 [N] The KL tax shifts the threshold, not the discrimination.

*Memoryless attempts, one logit difference `D(q, y)` an answer for rounds `1..T-1`, objective `J - beta KL`, `Delta =
D - D_ref`. (a) The pushes per visit on STOP at two answers of a prompt differ by `r(y) - r(y') - beta (Delta(y) -
Delta(y'))`: no `V`, `K`, `c`, `T`, `L`, no sampler; trajectory KL and own-token KL alike. (b) Under the natural
gradient flow of `pi_d`, whatever the sampler does meanwhile, `C = D(y) - D(y')` follows*

    C(t) = C_ref + dr/beta + (C(0) - C_ref - dr/beta) exp(-beta t),    and  C(0) + t dr  at beta = 0,

*`dr = r(y) - r(y')`: right and wrong separate at unit rate. (c) `T = 2`, one right and one wrong answer, `c = 0`, no
KL, natural gradient flow of both components: `logit a` moves at `1 - p`, `logit b` at `-p`, `logit p` at `(1 + (a -
b)(1 - 2p))/E[tau]`. (d) In the same setting the gradient flow in logits keeps `F(a) + F(b)`, `F(x) = 2 logit x - 1/x +
1/(1-x)`, whatever the sampler does.*

Proof. The push per visit is T7's bracket, averaged over the rounds that share the logit: `r - V + c + beta K - beta
Delta`. With memoryless attempts round `t` visits answer `y` with probability `alive_t pi_sample(y)`: the weights of
the rounds are common to the answers of a prompt, and so are `V_(t+1)` and `K_(t+1)`, which no attempt can change.
What depends on `y` is `r - beta Delta`. The Fisher block of the logit is `n pi_stop pi_res`, so the natural gradient
moves `D` at the push per visit, and `C` obeys `dC/dt = dr - beta (C - C_ref)`. (c) At `T = 2` `V = p`. A sampler's
logit moves by the visit-weighted mean of `U(right) - U(wrong)`: `a (1-p) + b p` in round 1, 1 in round 2, which is
reached with probability `1 - p a - (1-p) b`; divide by `E[tau]`. (d) The gradients on `logit a` and `logit b` are `p
(1-p)` times `a (1-a)` and `-b (1-b)`, and `F'(x) = 1/(x (1-x))^2`.

Precision. So "a KL penalty leaves pi_d under-optimised because of length" is a statement about the threshold, the
part of `D` that the answers of a prompt share. AUROC within a prompt depends on `C` alone and does not feel `L`. With
a sampler that reads earlier answers (history `full`) `V` and `K` depend on `y`, and the statement fails.

Checked (`numeric.py`): library gradients against (a), for both KLs; RK4 on the library's gradient against (b), while
the sampler follows another path; (c); (d). Controls: `Delta` left out; a policy whose sampler reads the answer; the
flow without the pull of the reference; `logit a + logit b` said to be kept. Boundary (`boundary.py`): the phase
portrait in `(p, a, b)`, and what the length of answers moves under a KL penalty.
"""

PLAIN = "KL shifts the threshold, not AUROC"
STATEMENT = "push(y) - push(y') = r - r' - beta (Delta - Delta'); dC/dt = dr - beta (C - C_ref)"
ASSUMPTIONS = (
    "memoryless attempts (history `none`), a free logit difference for each prompt and answer",
    "natural gradient of pi_d for the flow; (c): T = 2, one right and one wrong answer, c = 0",
)
