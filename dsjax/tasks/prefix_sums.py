"""Sums of digits modulo m, which a chain of easy steps reaches and a small network can only guess at once.

Prompt tokens: d digits in 0..m-1, filled up to W with a blank; answer: one token, the sum of all digits mod m. The
answer of step t of the chain is the sum of the first t digits, so the steps of a chain are the rounds of an episode
(history `full`). At small d a network learns the sum itself: d of 16 or more is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.config import require_range
from dsjax.tasks.base import Problems, Steps, Task, require_digits

SPLITS = {"in": "in distribution (d digits)", "longer": "out of distribution (longer sums)"}


@dataclass(frozen=True)
class PrefixSums(Task):
    """The task; hashable, so that it can be a static argument. Digits are uniform in every split.

    Splits: `in` = D digits; `longer` = W digits (needs `width` > `digits`).

    Attributes:
      digits: D >= 1, digits in distribution.
      width: W >= D, digits of the split `longer`; 0 means D.
      modulus: m >= 2; a guess is right with probability s = 1/m.
    """

    digits: int = 16
    width: int = 0
    modulus: int = 2

    split_names: ClassVar[Mapping[str, str]] = SPLITS
    mixed_split: ClassVar[str | None] = "longer"
    length: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_digits(self, 256)
        require_range("modulus", self.modulus, 2, 100)

    @property
    def vocabulary(self) -> int:
        """V = m."""
        return self.modulus

    @property
    def prompt_vocabulary(self) -> int:
        """The digits and a blank, which is m."""
        return self.modulus + 1

    @property
    def prompt_length(self) -> int:
        """P = W."""
        return self.width

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that exist at this size."""
        return tuple(SPLITS) if self.width > self.digits else ("in",)

    def draw(self, key: jax.Array, n: int, split: str) -> jax.Array:
        """Uniform digits, then blanks."""
        used = self.width if split == "longer" else self.digits
        digits = jax.random.randint(key, (n, used), 0, self.modulus, dtype=jnp.int32)
        return jnp.pad(digits, ((0, 0), (0, self.width - used)), constant_values=self.modulus)

    def _sums(self, prompt: jax.Array) -> jax.Array:
        """i32[n, W]: sums of the first digits mod m; the last of them at blanks."""
        return jnp.cumsum(jnp.where(prompt < self.modulus, prompt, 0), axis=1, dtype=jnp.int32) % self.modulus

    def problems(self, question: jax.Array) -> Problems:
        """The prompt is the question."""
        return Problems(question, self._sums(question)[:, -1:])

    def steps(self, problems: Problems) -> Steps:
        """Sums of the first 1, 2, .. digits."""
        count = jnp.sum(problems.prompt < self.modulus, axis=1, dtype=jnp.int32)
        return Steps(self._sums(problems.prompt)[:, :, None], count - 1)

    def held_out(self, split: str) -> int | None:
        """The number of held-out problems of the split, where there are at most a million to count."""
        used = self.width if split == "longer" else self.digits
        if self.modulus**used > 1_000_000:
            return None
        index = np.arange(self.modulus**used)[:, None]
        digits = (index // self.modulus ** np.arange(used)[None, :] % self.modulus).astype(np.int32)
        blanks = ((0, 0), (0, self.width - used))
        question = jnp.asarray(np.pad(digits, blanks, constant_values=self.modulus))
        return int(jnp.sum(self.is_held_out(question)))

    def text(self, prompt: jax.Array, answer: jax.Array | None = None) -> str:
        """Readable form, such as `1+0+1=` and the answer."""
        digits = [str(int(t)) for t in np.asarray(prompt) if int(t) < self.modulus]
        return "+".join(digits) + "=" + ("" if answer is None else str(int(np.asarray(answer)[0])))
