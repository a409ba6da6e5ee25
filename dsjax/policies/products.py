"""Products of matrices, in the form in which XLA computes them and their gradients fastest on processors."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def embed(ids: jax.Array, table: jax.Array) -> jax.Array:
    """Rows of the table, 0 for an id outside of it.

    By a one-hot product: the transpose of a gather is a scatter, which is slow on every backend.
    """
    return jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype) @ table


def widened(x: jax.Array) -> jax.Array:
    """In at least float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x W of the last axis, f[.., N] x f[N, M] to f[.., M]; a `dot_general` for Flax's Dense.

    As one product of matrices, whose gradient XLA computes fastest on processors: with several axes of rows it copies
    the cotangent transposed, and of the two transposed factors of W's gradient the narrower one should come first.
    """
    rows = x.reshape(-1, x.shape[-1])
    if x.dtype == kernel.dtype == jnp.bfloat16:
        y = low_product(rows, kernel)
    elif kernel.shape[0] > kernel.shape[1]:
        turned = jax.lax.optimization_barrier(kernel.T)
        y = jax.lax.dot_general(rows, turned, (((1,), (1,)), ((), ())))
    else:
        y = rows @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[1])


@jax.custom_vjp
def low_product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """bf16[R, N] x bf16[N, M] to bf16[R, M], summed in float32.

    Its gradient is written out because JAX's own would multiply a float32 cotangent by a bfloat16 factor, for which no
    backend has a fast product.
    """
    return _low_dot(rows, kernel, 1, 0)


def _low_dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Contract an axis of each, summed in float32.

    On processors the product is written in float32 and rounded after that: XLA uses their matrix units for no other
    product, and multiplies float32 copies of the factors instead.
    """
    axes = (((axis_a,), (axis_b,)), ((), ()))

    def wide(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32).astype(a.dtype)

    def narrow(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, axes)

    return jax.lax.platform_dependent(a, b, cpu=wide, default=narrow)


def _low_product_forward(rows: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return low_product(rows, kernel), (rows, kernel)


def _low_product_backward(factors: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, kernel = factors
    return _low_dot(cotangent, kernel, 1, 1), _low_dot(rows, cotangent, 0, 0)


low_product.defvjp(_low_product_forward, _low_product_backward)

Dense = functools.partial(nn.Dense, dot_general=product)
