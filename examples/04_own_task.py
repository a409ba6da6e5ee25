"""Train a task of your own with RLOO: four sizes, questions, and the right answers to them."""

import tempfile

import jax
import jax.numpy as jnp

import dsjax as ds


class Parity(ds.Task):
    """Whether the number of ones in eight bits is odd."""

    prompt_vocabulary, prompt_length, vocabulary, length = 2, 8, 2, 1

    def draw(self, key, n, split):
        """Random bits."""
        return jax.random.randint(key, (n, 8), 0, 2)

    def problems(self, question):
        """The prompt is the question."""
        return ds.tasks.Problems(question, jnp.sum(question, axis=1, keepdims=True) % 2)


sizes = dict(rounds=2, layers=1, model_width=8, heads=2, prompts=8, group=4)
times = dict(updates=4, chunk=2, evaluate_every=4, checkpoint_every=4, evaluation_problems=8)
config = ds.TrainConfig(task=f"{__name__}:Parity", arm="rloo", **sizes, **times)
with tempfile.TemporaryDirectory() as directory:
    result = ds.train(config, directory)
print(result["evaluations"]["last"]["in"])
