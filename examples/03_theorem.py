"""Check a theorem on a process of your own: random policies on it, every trajectory enumerated, float64."""

import jax.numpy as jnp

import dsjax as ds
import proofs_check
from dsjax.numerics import exact

with exact():
    grades = jnp.array([[0.9, 0.2, 0.4]])  # of three answers of one token
    process = ds.DecisionSamplingProcess.create(
        prompt_law=jnp.ones(1), reward_table=grades, vocabulary=3, length=1, rounds=2, cost=0.1
    )
proofs_check.check("T3", process=process, instances=16).print()
