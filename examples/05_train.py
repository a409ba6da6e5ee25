"""An objective of your own trains a Flax module of your own."""

import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp

import dsjax as ds


class Net(nn.Module):
    """Answer tokens from the prompt alone; the decision from prompt and answer."""

    @nn.compact
    def __call__(self, prompt, answers):
        """The two laws: f[B, K, L, 10] and f[B, K, 2] logits."""
        (B, K, L), x = answers.shape, jax.nn.one_hot(prompt, 12).reshape(len(prompt), -1)
        sample = nn.Dense(L * 10)(nn.relu(nn.Dense(64)(x))).reshape(B, 1, L, 10)
        x = jnp.broadcast_to(x[:, None], (B, K, x.shape[1]))
        seen = jnp.concatenate([x, jax.nn.one_hot(answers, 10).reshape(B, K, -1)], axis=-1)
        return jnp.broadcast_to(sample, (B, K, L, 10)), nn.Dense(2)(nn.relu(nn.Dense(64)(seen)))


def network(task, rounds):
    """The module as a policy."""
    example = jnp.zeros((1, task.prompt_length), int), jnp.zeros((1, rounds, task.length), int)
    return ds.FunctionPolicy(Net().apply, task.length, lambda key: Net().init(key, *example))


def success(logp, traj):
    """Log-likelihood of the episodes with a right answer."""
    weight = traj.weight * traj.reward
    return -(jnp.where(traj.mask, logp, 0.0) * weight[:, None]).sum(), weight.sum()


here = dict(network=f"{__name__}:network", arm=f"{__name__}:success", digits=2)
times = dict(rounds=2, updates=4, chunk=2, evaluate_every=4, checkpoint_every=4, evaluation_problems=4)
with tempfile.TemporaryDirectory() as directory:
    print(ds.train(ds.TrainConfig(**here, **times), directory)["evaluations"]["last"]["in"])
