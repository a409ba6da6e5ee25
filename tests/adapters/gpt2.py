"""A tiny GPT-2 (Radford et al., 2019) in plain torch: learned positions, pre-norm blocks, GELU, tied head."""

from __future__ import annotations

import importlib
from typing import Any

torch: Any = importlib.import_module("torch")
nn: Any = torch.nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        B, S, D = x.shape
        q, k, v = (y.reshape(B, S, self.heads, -1).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).split(D, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).reshape(B, S, D))
        return x + self.mlp_proj(nn.functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """[B, S] ids to logits [B, S, V]."""

    def __init__(self, vocabulary: int, length: int, width: int = 16, heads: int = 2, layers: int = 2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks, self.ln_f = nn.ModuleList(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width)

    def hidden(self, ids: Any) -> Any:
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)

    def forward(self, ids: Any) -> Any:
        return self.hidden(ids) @ self.wte.weight.T


def log_probs(model: Any, prompt: Any, tokens: Any) -> Any:
    """f[B, S] nats of the tokens behind a prompt."""
    logits = model(torch.cat([prompt, tokens], dim=1))[:, prompt.shape[1] - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(-1, tokens[..., None])[..., 0]
