"""What only a model tells, in torch: score norms from logits, and projected gradients of both components."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

torch: Any = importlib.import_module("torch")
Tensor = Any

PART = 2**24  # entries of a gradient that are projected at a time: 128 MB of drawn integers


def token_scores(
    logits: Tensor,
    tokens: Tensor,
    *,
    stop: int | None = None,
    temperature: float = 1.0,
    head: Callable[[Tensor], Tensor] | None = None,
    chunk: int = 1024,
) -> dict[str, Tensor]:
    """`logp`, `score_norm` and, with `stop`, `stop_logp` of tokens, float32 [B, S] each, for a file of rollouts.

    The score of a drawn token v in its own logits is `e_v - pi`, and `|e_v - pi|^2 = 1 - 2 pi_v + sum_u pi_u^2`. Where
    pi_v is near 1 these terms cancel. Here `(1 - pi_v)^2 + sum_{u != v} pi_u^2` is a sum of positive terms,
    relative to the largest other logit: the relative error is some eps times the largest logit, whatever pi_v is.

    Args:
      logits: [B, S, V] of any float dtype; logits at a slot are those that its token was drawn from, so a causal
        model's of the slot before. Or hidden states [B, S, H], with `head`.
      tokens: i[B, S].
      stop: id of the token that is STOP.
      temperature: of the sampling.
      head: from hidden states to logits; then no [B, S, V] is made.
      chunk: tokens at a time, each of which takes a few V floats.
    """
    z_NxD, token_N = logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1)
    parts = []
    with torch.no_grad():
        for z, v in zip(z_NxD.split(chunk), token_N.split(chunk), strict=True):
            z = (z if head is None else head(z)).float() / temperature
            parts.append(_scores(z, v[:, None], stop))
    return {name: torch.cat([part[name] for part in parts]).reshape(tokens.shape) for name in parts[0]}


def _scores(z_NxV: Tensor, v_Nx1: Tensor, stop: int | None) -> dict[str, Tensor]:
    drawn = z_NxV.gather(-1, v_Nx1)[:, 0]
    rest = z_NxV.scatter(-1, v_Nx1, -torch.inf)
    top = rest.amax(-1).clamp(min=torch.finfo(rest.dtype).min)  # finite where every other logit is -inf
    e = (rest - top[:, None]).exp()
    others = e.sum(-1)
    log_others = top + others.log()
    log_total = torch.logaddexp(drawn, log_others)
    found = {
        "logp": -torch.nn.functional.softplus(log_others - drawn),
        "score_norm": (top - log_total).exp() * (others**2 + (e * e).sum(-1)).sqrt(),
    }
    return found if stop is None else {**found, "stop_logp": (z_NxV[:, stop] - log_total).clamp(max=0.0)}


def coefficients(loss: Callable[[Tensor], Tensor], logp: Tensor) -> Tensor:
    """c_it = -d loss/d logp_it: those of your own loss, a function of log-probs f[B, S] alone."""
    leaf = logp.detach().clone().requires_grad_()
    return -torch.autograd.grad(loss(leaf), leaf)[0]


def component_gradients(
    logp: Tensor,
    coefficients: Tensor,
    sample_mask: Tensor,
    decision_mask: Tensor,
    parameters: Iterable[Tensor],
    *,
    size: int | None = 1024,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """(g_s, g_d) of one unit, projected: `g_c = sum over the tokens of c of c_it grad logp_it`, the ascent direction.

    Two pull-backs through one forward pass, and a projection by `sketch`, the same for both components.

    Args:
      logp: f[b, S] of the unit's rows, nats, with their graph, finite everywhere. It is kept for a backward pass.
      coefficients: [b, S] of these rows in the loss of the whole batch: from `coefficients`, or those of
        `attribute_rollouts`. What stands outside of the masks does not matter.
      sample_mask: bool[b, S].
      decision_mask: bool[b, S].
      parameters: of the model; those without a gradient are left out.
      size: m, coordinates kept; None keeps them all, P float64 numbers a unit and component.
      seed: of the projection; the same for all units.

    Returns:
      f64[m] twice, for `gradient_arrays`.
    """
    trained = [p for p in parameters if p.requires_grad]
    found = []
    for mask in (sample_mask, decision_mask):
        cotangent = torch.where(mask.bool(), coefficients.to(logp), 0.0)
        gradients = torch.autograd.grad(logp, trained, cotangent, retain_graph=True, allow_unused=True)
        found.append(
            sketch(
                [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, trained, strict=True)], size, seed
            )
        )
    return found[0], found[1]


def sketch(tensors: Sequence[Tensor], size: int | None = 1024, seed: int = 0) -> Tensor:
    """R g, f64[m]: every coordinate of g is added to one of m, with a sign, both drawn at random (a CountSketch).

    Linear, and the same R for the same seed, shapes and kind of device. Over the draw of R, for any g and h,

        E <R g, R h> = <g, h>,   Var <R g, R h> = (|g|^2 |h|^2 + <g, h>^2 - 2 sum_k g_k^2 h_k^2)/m,

    so inner products are unbiased, and off by some `|g| |h|/sqrt(m)`; a dense Gaussian projection has no third term.
    For N rows the mean over pairs of different rows, the signal of `dsjax attribute`, is `tr(R A R^T)` with the
    symmetric `A = sum_{i != j} g_i g_j^T/(N (N - 1))`: unbiased, of variance at most `2 |A|_F^2/m`. It takes time in
    proportion to P and no memory for R.

    Charikar, Chen, Farach-Colton (2002), Finding frequent items in data streams; Weinberger et al. (2009), Feature
    hashing for large scale multitask learning.

    Args:
      tensors: g, piece by piece.
      size: m; None for g itself.
      seed: of R.
    """
    if size is None:
        return torch.cat([g.detach().reshape(-1).double() for g in tensors])
    total = torch.zeros(size, dtype=torch.float64, device=tensors[0].device)
    for index, g in enumerate(tensors):
        state = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]) >> 1
        generator = torch.Generator(g.device).manual_seed(state)
        for part in g.detach().reshape(-1).split(PART):
            draw = torch.randint(2 * size, part.shape, generator=generator, device=g.device)
            total += torch.bincount(draw // 2, part.double() * (1 - 2 * (draw % 2)), minlength=size)
    return total
