"""T4 [R] Length invariance of reward attribution.

*(a) Writing the same answers with another token tree, with the same law of answers, leaves `J, E_s, E_d` unchanged.
(b) So does appending `m` filler tokens that neither the verifier nor any later factor reads; the filler's logits get
gradient 0.* Saturated policies, Fisher metric.

Proof. (a) `A^s`, `A^d` and `rho` are functions of answers. The scores of a saturated token tree span all functions of
(context, answer) with conditional mean 0, whatever the tree; so the projections agree. This covers policies without
history, with functions that do not depend on the round. (b) If nothing reads the filler `f`, the conditional mean of
`R` does not change when `f` is revealed: its advantage is 0, so its gradient is 0. Answers `(y, f)` have the
advantages of `y`, and summing the squares over `f` gives those of `y`.

Precision. The statement is about energies. Euclidean norms in logit space do change with the encoding (a control shows
it).

Checked (`numeric.py`), with random relabelling, random filler laws. Controls: a verifier that takes 1% off for one
filler; a decider whose logit moves by 0.01 with the filler; Euclidean norm for energy.
"""

PLAIN = "reward attribution does not feel length"
STATEMENT = "J, E_s, E_d depend on the law of answers, not on its token tree; unread filler gets gradient 0"
ASSUMPTIONS = (
    "saturated policies, with the same answer law in both encodings",
    "Fisher metric: Euclidean norms do change",
    "filler: read neither by the verifier nor by any later factor",
)
