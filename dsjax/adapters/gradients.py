"""Rows of component gradients as the file has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsjax.adapters.recorder import to_numpy
from dsjax.errors import require


def gradient_arrays(rows: Sequence[tuple[Any, Any]]) -> dict[str, np.ndarray]:
    """`gradient_sample` and `gradient_decision`, f[N, P]: N times each row, so that their means are the gradient.

    Unit j of N (a group that shares a baseline, or a micro-batch) gives `g_c(j) = sum_{i in j} sum_t c_it grad logp_it`
    over the tokens of component c, with the coefficients of the whole batch. The gradient is `G_c = sum_j g_c(j)`, the
    mean of the N estimates `N g_c(j)`, and these are independent where the units are.

    Args:
      rows: (sample, decision) of each unit, f[P] each, as `component_gradients` of `torch_model` or `jax_model` gives.

    Raises:
      InputError: for fewer than two rows, which have no pair to tell signal from noise.
    """
    require(len(rows) >= 2, "rows", len(rows), "at least 2 units")
    sample, decision = (np.stack([to_numpy(row[i]) for row in rows]) * len(rows) for i in (0, 1))
    return {"gradient_sample": sample, "gradient_decision": decision}
