"""The arrays of a file of rollouts by name: dtype, shape and meaning. Format version 2; see docs/attribute.md."""

from __future__ import annotations

FORMAT = 2

REQUIRED = {
    "logp": "f[B, S] log-probability of each drawn token under the present policy, nats; where there are none, "
    "--on-policy tells coefficients and signs",
    "sample_mask": "bool[B, S] tokens that belong to an answer",
    "decision_mask": "bool[B, S] tokens that decide STOP or RESAMPLE",
    "reward": "f[B] return of the trajectory; may be left out where advantage is given",
}
OPTIONAL = {
    "advantage": "f[B] or f[B, S] the trainer's own advantages; objectives that have an advantage take them",
    "old_logp": "f[B, S] log-probability under the policy before the update, nats",
    "ref_logp": "f[B, S] log-probability under the reference policy, nats",
    "sampler_logp": "f[B, S] log-probability by the engine that drew the tokens, nats",
    "stop_logp": "f[B, S] log-probability of STOP at the first token of each decision, nats",
    "values": "f[B, S] a critic's estimate of the return before the token",
    "group": "id[B] which trajectories share a prompt; any integers or words",
    "weight": "f[B] relative weight of the trajectory, >= 0; 0 takes the row out; equal weights without it",
    "truncated": "bool[B] cut off by a limit of tokens: its last decision is no STOP",
    "trajectory": "id[B] rows of one trajectory, in their order; each row is one without it",
    "segment_ids": "i[B, S] 1, 2, .. for the trajectories packed in a row, 0 = padding; arrays [B] then have one entry "
    "a trajectory",
    "round": "i[B, S] round of the token, 0-based; without it a round ends at its decision",
    "decision": "i[B, S] 0 = STOP, 1 = RESAMPLE at decision tokens; without it the last drawn token is STOP",
    "correct": "bool[B, S] at the first token of each decision: whether the answer before it is correct",
    "decision_span": "i[B, S] which decision a token belongs to, where some are spelt with several tokens",
    "tokens": "i[B, S] token ids, for your own objective",
    "prompt": "i[B, Q] prompt token ids, for your own objective",
    "score_norm": "f[B, S] Euclidean norm of the token's score in its own logits, sqrt(1 - 2 p + sum_u pi_u^2)",
    "vocabulary": "i[] choices V of the softmax of a sampling token",
    "decision_choices": "i[] choices of the softmax of a decision token: 2, or the size of the vocabulary",
    "gradient_sample": "f[N, P] N independent estimates of the sampler's part of your gradient",
    "gradient_decision": "f[N, P] N independent estimates of the decider's part of your gradient",
}
ARRAYS = {**REQUIRED, **OPTIONAL}
