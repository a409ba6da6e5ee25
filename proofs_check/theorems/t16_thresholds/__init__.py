"""T16 [N] Imitated correctness labels and reward differ by a threshold.

*At a visit let `q = P(right | what the decider sees)` and `V` the value of going on, cost taken off. A decider that
imitates correctness labels without limit of data or capacity stops with probability `q`; one that maximises reward
stops iff `q >= V`. Regret of the imitator per visit: `q (V - q)` if `q < V`, else `(1 - q)(q - V)`; of its greedy
version (STOP iff `q > 1/2`): `|q - V|` for `q` between 1/2 and `V`. It is zero iff `q` is 1 or `V`, or `q` is 0 and
`V >= 0`. What the maximiser gains over the imitator is the sum of these regrets over the imitator's visits.*
Memoryless sampler, any cost; a graded verifier's `r` is the probability of the label "right".

Proof. Cross-entropy on labels that are right with probability `q` given `x` is least at `pi(STOP | x) = q`. Stopping
is worth `q` and going on `V`, so the maximiser gets `max(q, V)` and the imitator `q^2 + (1 - q) V`. The difference of
the returns of two deciders is the sum, over the visits of one, of what the other's values say that it loses there;
`V` is the maximiser's, `V_t = E_x[max(q, V_(t+1))] - c`, the same at every visit of a round.

Precisions. (a) Labels of value do not close the gap if they are taken answer by answer: "STOP iff `r >= V`" is the
correctness label itself wherever `0 < V <= 1`, since `r` is 0 or 1. What closes it is a label that has been averaged
over what the decider does not see: STOP iff `q >= V`. Answer by answer they differ only where going on is not worth
its cost (`V <= 0`). (b) With a cost `V` can be negative: then even a decider that knows the answer to be wrong should
stop, and imitation, which does not, loses `-V`. (c) AUROC within a prompt is that of `q` for both: `q` and `1[q >=
V]` order answers alike, up to ties. (d) From a reliability table (`q`, `V` and how often, by bin) the regret is known
before any training: `dsjax.evaluation.regret.from_table`. Headroom of judgement (an oracle less the decider) is
another number: this one is what the same knowledge could earn.

Checked (`numeric.py`), for deciders that read none, some and all tokens of an answer: both regrets as differences of
exact returns, the imitator as the optimum of SFT on labelled answers, value labels. Controls: one formula on both
sides of the threshold, twice; the cost not taken off; regrets summed over the maximiser's visits; value labels said
to reach the maximum; SFT said to end at the greedy decider. Boundary (`boundary.py`): both regrets over `q` and `V`.
"""

PLAIN = "imitated labels miss the threshold of reward"
STATEMENT = "J* - J(imitator) = sum over its visits of q (V - q) if q < V, else (1 - q)(q - V)"
ASSUMPTIONS = (
    "labels of correctness: right with probability r (binary verifier: for sure)",
    "memoryless sampler; the decider sees prompt, round and the first tokens of an answer",
)
