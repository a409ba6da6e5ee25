"""How an objective of your own shares its gradient between answering and deciding, on a policy of your own."""

import jax.numpy as jnp

import dsjax as ds


def per_token(logp, traj):
    """REINFORCE on the return, divided by all tokens: longer answers weigh more."""
    loss = -jnp.where(traj.mask, logp, 0.0) * traj.reward[:, None] * traj.weight[:, None]
    return loss.sum(), (traj.weight * traj.num_tokens).sum()


def laws(params, prompt, answers):
    """One law for every token; the decision reads the last token."""
    sample = jnp.broadcast_to(params["token"], (*answers.shape, 2))
    return sample, params["decision"][answers[..., -1]]


policy = ds.FunctionPolicy(laws, length=2)
params = {"token": jnp.array([0.5, 0.0]), "decision": jnp.array([[1.0, 0.0], [0.0, 0.5]])}
right = jnp.array([[0.0, 0.0, 0.0, 1.0]])  # of the answers 00, 01, 10, 11 to the one prompt
process = ds.DecisionSamplingProcess.create(
    prompt_law=jnp.ones(1), reward_table=right, vocabulary=2, length=2, rounds=3
)
found = ds.attribute(policy, params, process.enumerate_trajectories(policy, params), per_token)
print(f"decisions get {float(found.share):.0%} of the energy, {float(found.block_share):.0%} of the coefficients")
