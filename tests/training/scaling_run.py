"""Trains a few updates on the given devices and writes parameters and metrics: run in a process of its own."""

import argparse
from typing import Any

import jax
import numpy as np
import optax

from dsjax.objectives import resolve
from dsjax.policies.transformer import TransformerPolicy
from dsjax.tasks import Addition
from dsjax.training.sharding import Layout, data_mesh
from dsjax.training.sources import SOURCES, Setting
from dsjax.training.step import TrainState, make_train_steps

UPDATES = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--parameters", default="replicated")
    parser.add_argument("--microbatch", type=int, default=0)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.processes > 1:
        jax.distributed.initialize(f"localhost:{options.port}", options.processes, options.process)

    task = Addition(2)
    policy = TransformerPolicy.for_task(task, 2, layers=1, width=16, heads=2)
    layout = Layout(data_mesh(options.devices), options.parameters, options.microbatch)
    optimizer = optax.sgd(0.01, momentum=0.9)  # linear in the gradient, so that rounding stays rounding
    params = policy.init(jax.random.key(0))
    state = layout.place(TrainState.create(params, optimizer, jax.random.key(1), jax.random.key(2)))
    steps = make_train_steps(
        Setting(task, rounds=2, prompts=16, group=4, cost=0.5),  # rewards differ although no answer is right
        policy,
        SOURCES["on-policy"],
        resolve("reinforce_plus_plus"),  # whitened over the batch: no device can compute its loss alone
        optimizer,
        UPDATES,
        layout=layout,
    )
    split = sorted({str(x.sharding.spec) for x in jax.tree.leaves(state.params)})
    state, metrics = steps(state, layout.place(params))
    whole = Layout(layout.mesh).place(state.params)  # every process has all of it
    if options.process == 0:
        leaves = {f"p{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(whole))}
        arrays: dict[str, Any] = {"split": np.array(split), **{k: np.asarray(v) for k, v in metrics.items()}, **leaves}
        np.savez(options.out, **arrays)


if __name__ == "__main__":
    main()
