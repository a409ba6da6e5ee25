"""T9 [R] Success-only imitation cannot teach pi_d.

*Demonstrations `(q, right y, STOP)`, law `nu`, loss SFT. The gradient on logit STOP is `(nu(x)/N)(1 - pi_stop(x))`:
positive in every context of the demonstrations at any finite logits, exactly 0 in every other. So the supremum of the
likelihood is at `pi_stop = 1` on the support and no finite logits reach it; elsewhere the decider stays as it was. A
decider that cannot tell answers apart ends at "always STOP": final accuracy = first-attempt accuracy.* Binary
verifier, `c = 0`, `T >= 2`.

Proof. The gradient is T5 with `nu(STOP | x) = 1`. The decider's part of the likelihood is `(1/N) sum_x nu(x) log
pi_stop(x) <= 0`, with equality iff `pi_stop = 1` on the support; finite logits give `pi_stop < 1`. If one logit serves
a set of answers, add up their gradients: the same formula with `nu` of the set. A blind decider has one set per
prompt, so it stops at once everywhere, and what is kept is the first attempt.

What it does to accuracy. Saturated and memoryless: at an answer that was shown `pi_stop` becomes 1, at every other
answer it does not change. So `b` is untouched and `a` rises to `a* = P(STOP or shown | right)`; accuracy becomes
`acc_T(p, a*, b)` of T10. `J` rises, with or without history: it changes by the sum over shown answers of (probability
to reach them under the new policy) `x (1 - U_t)`, and `1 - U_t = pi_res (1 - V_(t+1)) > 0`.

Precisions. (a) "Cannot teach" means: nothing about wrong answers. A decider with a softmax per answer does gain from
being told which answers are right: from `a = b = 1/2` to `a = 1, b = 1/2`, whose log-odds rise by `log 2` in the limit
of many rounds. What such demonstrations cannot do is lower `b`, other than by generalisation that is not in the data;
and if right and wrong answers share a context, `b` *rises*. A decider that reads part of the answer lies in between:
it stops at every answer that shares a context with a shown one. (b) With a memoryless sampler, final accuracy =
first-attempt accuracy holds for *every* blind decider, taught or not: `a = b` (T10). What imitation adds is that it
stops at once; with a sampler that uses its history the two differ. (c) Demonstrations that contain a wrong answer
followed by RESAMPLE break each claim but the rise of `J`: that is what the controls are.

Checked (`numeric.py`), with random demonstrators that show some of the right answers, decision logits with standard
deviation 3, saturated and blind deciders; the rise of `J` against its closed form. Controls: `V` for `U` and the old
visits in the rise; the claims of demonstrations half of which begin with a wrong answer and RESAMPLE, seven in all.
"""

PLAIN = "imitating success never teaches resampling"
STATEMENT = "on (q, right y, STOP) the optimum: pi_stop = 1 on the support, untouched elsewhere; blind: always STOP"
ASSUMPTIONS = (
    "demonstrations stop at a right first answer; not all right answers need be shown; T >= 2, binary verifier",
    "saturated decider: one softmax a context; blind decider: one a prompt",
    "the optimum is a limit: no finite logits reach it",
)
