"""One instance as a JSON file, with every parameter, so that anyone can check (or change) exactly that one.

    {"format": 1, "theorem": "T7", "title", "shape": {"kind": "Shape", "rounds": 2, ...},
     "origin": {"seed", "shape", "index", "extreme", "claim"}, "leaves": [{"name", "dtype", "shape", "values"}, ...]}

Leaves are the arrays of the instance in pytree order; decimal float64 values are exact to the last bit. Random keys
are stored as their words.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import require_range
from dsjax.errors import InputError, require
from proofs_check.instances import Shape
from proofs_check.registry import select
from proofs_check.theorem import Theorem

FORMAT = 1
LARGEST = 4096  # of the integers in a shape


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _words(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def encode(theorem: Theorem, shape: Any, instance: Any, origin: dict[str, Any]) -> dict[str, Any]:
    """The instance as JSON values."""
    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(instance):
        x = np.asarray(_words(leaf))
        name = jax.tree_util.keystr(path)
        leaves.append({"name": name, "dtype": str(x.dtype), "shape": list(x.shape), "values": x.tolist()})
    return {
        "format": FORMAT,
        "theorem": theorem.id,
        "title": theorem.about.title,
        "shape": {"kind": type(shape).__name__, **dataclasses.asdict(shape)},
        "origin": origin,
        "leaves": leaves,
    }


def _shape(theorem: Theorem, data: Any) -> Hashable:
    """The static shape, of one of the kinds that the theorem is checked with."""
    kinds = {type(s).__name__: type(s) for s in theorem.shapes}
    require(isinstance(data, dict), "shape", data, "an object with the static shape")
    kind = data.get("kind")
    require(isinstance(kind, str) and kind in kinds, "shape.kind", kind, kinds)
    try:
        fields = {k: Shape(**v) if isinstance(v, dict) else v for k, v in data.items() if k != "kind"}
        made = kinds[kind](**fields)
    except TypeError as error:
        raise InputError("shape", data, f"the fields of {kind} ({error})") from error
    _require_small("shape", made)
    return made


def _require_small(where: str, shape: Any) -> None:
    """Types and sizes of a shape: what it says is what is compiled."""
    hints = typing.get_type_hints(type(shape))
    for field in dataclasses.fields(shape):
        name, value, hint = f"{where}.{field.name}", getattr(shape, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            _require_small(name, value)
        elif hint is int:
            require_range(name, value, 0, LARGEST)
        elif hint in (bool, float, str):
            kinds = (int, float) if hint is float else hint
            require(isinstance(value, kinds), name, value, f"a value of type {hint.__name__}")
        elif typing.get_origin(hint) is typing.Literal:
            require(value in typing.get_args(hint), name, value, map(str, typing.get_args(hint)))


def decode(data: Any) -> tuple[Theorem, Hashable, Any]:
    """(theorem, shape, instance) from JSON values; call it in a float64 scope.

    Raises:
      InputError: if the data is not an instance of the theorem that it names.
    """
    require(isinstance(data, dict) and data.get("format") == FORMAT, "format", data, f"an object of format {FORMAT}")
    (theorem,) = select(str(data.get("theorem")))
    shape = _shape(theorem, data.get("shape"))
    template = jax.eval_shape(lambda: theorem.draw(jax.random.key(0), shape, None))
    expected, tree = jax.tree_util.tree_flatten_with_path(template)
    leaves: Any = data.get("leaves")
    require(isinstance(leaves, list) and len(leaves) == len(expected), "leaves", leaves, f"{len(expected)} arrays")
    arrays = []
    for (path, leaf), stored in zip(expected, leaves, strict=True):
        name = jax.tree_util.keystr(path)
        like = jax.eval_shape(_words, leaf)
        try:
            x = np.asarray(stored["values"], like.dtype)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(name, stored, f"an array of {like.dtype} ({error})") from error
        require(x.shape == like.shape, f"{name}.shape", x.shape, str(like.shape))
        require(bool(np.isfinite(x).all()), name, "a value that is not finite", "finite values")
        arrays.append(jax.random.wrap_key_data(jnp.asarray(x)) if _is_key(leaf) else jnp.asarray(x))
    return theorem, shape, jax.tree_util.tree_unflatten(tree, arrays)
