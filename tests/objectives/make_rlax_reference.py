"""What rlax computes on a fixed batch, kept in `rlax_reference.json` for `test_peers.py`.

rlax needs nightly builds of another library, so it is not a dependency. With rlax installed,

    python -m tests.objectives.make_rlax_reference

writes the file again. Its inputs are stored in it: decimals, so that they do not depend on a random generator.
"""

from __future__ import annotations

import importlib
import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FILE = Path(__file__).with_name("rlax_reference.json")
B, S = 8, 9  # no padding: rlax takes rectangular batches
GAE = {"one": (1.0, 1.0), "both": (0.9, 0.8), "zero": (1.0, 0.0)}  # (discount, lambda)
DISCOUNT = 0.9  # of the returns
Arrays = dict[str, np.ndarray]


def inputs() -> Arrays:
    """Log-probs under two policies, values, returns and token rewards, to four decimals.

    Ratios are exp(+-0.1) and exp(+-0.5): on both sides of a clip at 0.2, never near it.
    """
    rng = np.random.default_rng(0)
    logp = -0.6 - rng.random((B, S))
    arrays = {
        "logp": logp,
        "old_logp": logp + rng.choice([-0.5, -0.1, 0.1, 0.5], (B, S)),
        "values": rng.normal(size=(B, S)),
        "reward": rng.random(B),
        "token_rewards": rng.normal(size=(B, S)),
        "advantage": rng.normal(size=(B, S)),
    }
    return {name: x.round(4) for name, x in arrays.items()}


def logits_for(logp: jax.Array) -> jax.Array:
    """Logits of two tokens, of which token 0 has this log-probability."""
    return jnp.stack([logp, jnp.log1p(-jnp.exp(logp))], axis=-1)


def outputs(given: Arrays) -> Arrays:
    """The same quantities by rlax, in float64; a loss with its gradient in the log-probs where there is one."""
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")  # of deprecations, wherever rlax is used
        rlax: Any = importlib.import_module("rlax")  # by name, for type checkers that do not find it
        x = {name: jnp.asarray(value) for name, value in given.items()}
        rewards = jnp.zeros((B, S)).at[:, -1].set(x["reward"])
        values = jnp.concatenate([x["values"], jnp.zeros((B, 1))], axis=1)
        out: dict[str, Any] = {}
        for name, (discount, decay) in GAE.items():
            discounts = jnp.full(S, discount)
            for i in range(B):
                A = rlax.truncated_generalized_advantage_estimation(rewards[i], discounts, decay, values[i])
                target = rlax.lambda_returns(rewards[i], discounts, values[i, 1:], decay)
                out.setdefault(f"gae_{name}", []).append(A)
                out.setdefault(f"target_{name}", []).append(target)

        def clipped(logp: jax.Array) -> jax.Array:
            return rlax.clipped_surrogate_pg_loss(jnp.exp(logp - x["old_logp"]).ravel(), x["advantage"].ravel(), 0.2)

        def policy_gradient(logp: jax.Array) -> jax.Array:
            action = jnp.zeros(B * S, jnp.int32)
            return rlax.policy_gradient_loss(
                logits_for(logp).reshape(-1, 2), action, x["advantage"].ravel(), jnp.ones(B * S)
            )

        def entropy(logp: jax.Array) -> jax.Array:
            return rlax.entropy_loss(logits_for(logp[:, 0]), jnp.ones(B))

        for f in (clipped, policy_gradient, entropy):
            out[f.__name__], out[f"{f.__name__}_gradient"] = jax.value_and_grad(f)(x["logp"])
        out["returns"] = [rlax.lambda_returns(r, jnp.full(S, DISCOUNT), jnp.zeros(S), 1.0) for r in x["token_rewards"]]
        return {name: np.asarray(value) for name, value in out.items()}


def load() -> tuple[Arrays, Arrays]:
    """(inputs, outputs) as stored."""
    stored = json.loads(FILE.read_text())
    given, expected = ({k: np.asarray(v) for k, v in stored[part].items()} for part in ("inputs", "outputs"))
    return given, expected


def section(arrays: Arrays) -> str:
    """A JSON object with one line an array."""
    return "{\n" + ",\n".join(f'  "{name}": {json.dumps(x.tolist())}' for name, x in arrays.items()) + "\n }"


def main() -> None:
    """Write the file."""
    given = inputs()
    parts = {
        "rlax": json.dumps(metadata.version("rlax")),
        "jax": json.dumps(jax.__version__),
        "inputs": section(given),
        "outputs": section(outputs(given)),
    }
    FILE.write_text("{\n" + ",\n".join(f' "{name}": {text}' for name, text in parts.items()) + "\n}\n")


if __name__ == "__main__":
    main()
