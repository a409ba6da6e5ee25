"""What lives only in a trainer's process, written as files of rollouts there; see docs/adapters.md.

One module a framework. None imports its framework, and only `tunix` and `jax_model`, for trainers that run on JAX,
import JAX.
"""
