"""Processes that users might bring, for `dsjax check --process tests.processes:NAME`."""

import jax.numpy as jnp

from dsjax.process import DecisionSamplingProcess


def _process(table, rounds=2, length=1, **options):
    table = jnp.asarray(table)
    law = jnp.full(table.shape[0], 1 / table.shape[0])
    return DecisionSamplingProcess.create(
        prompt_law=law, reward_table=table, vocabulary=2, length=length, rounds=rounds, **options
    )


def binary():
    """Two prompts, one right answer each."""
    return _process([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], length=2)


def always_right():
    """Nothing to decide: every answer is right."""
    return _process([[1.0, 1.0]])


def graded():
    """Grades and a price."""
    return _process([[0.9, 0.2]], rounds=3, cost=0.1, history="full")


def large():
    """Too many trajectories for a Fisher matrix over all contexts."""
    return _process([[1.0, 0.0, 0.0, 0.0]] * 2, rounds=5, length=2)


def nothing():
    """Not a process."""
    return 3
