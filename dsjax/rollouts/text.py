"""Tokens as text and text as tokens, by a local tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.errors import InputError, require

EXTRA = "pip install 'dsjax[readers]'"


class Tokens:
    """A tokenizer from a file, or from the folder of a model that has one; nothing is fetched."""

    def __init__(self, path: str | Path):
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError("tokenizer", str(path), f"none, or after {EXTRA}") from error
        try:
            found: Any = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                "tokenizer", str(path), f"a readable tokenizer.json ({error.strerror or error})"
            ) from error
        except Exception as error:  # the library raises bare ones
            raise InputError("tokenizer", str(path), f"a tokenizer.json of the tokenizers library ({error})") from error
        found.no_truncation()  # a file may have them on
        found.no_padding()
        self.path, self.tokenizer = path, found

    @cached_property
    def size(self) -> int:
        """Number of tokens."""
        return int(self.tokenizer.get_vocab_size())

    @cached_property
    def special(self) -> np.ndarray:
        """Ids of special tokens."""
        added = self.tokenizer.get_added_tokens_decoder()
        return np.array(sorted(i for i, token in added.items() if token.special), np.int64)

    @cached_property
    def end(self) -> str | None:
        """The end token that a tokenizer_config.json beside the file names."""
        try:
            named = json.loads(self.path.with_name("tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
            return named if isinstance(named, str) else named["content"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def id_of(self, token: str, field: str) -> int:
        """The id of a token that is written exactly so."""
        found = self.tokenizer.token_to_id(token)
        require(found is not None, field, token, f"a token of {self.path}")
        return int(found)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids, without tokens that the tokenizer would put around them."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def known(self, ids: np.ndarray, field: str = "tokens") -> None:
        """Refuse ids that the tokenizer does not have: it is another model's."""
        for i in np.unique(ids):
            known = i >= 0 and self.tokenizer.id_to_token(int(i)) is not None
            require(known, field, int(i), f"ids of {self.path} ({self.size} tokens): is it this model's?")

    def pieces(self, ids: Sequence[int]) -> tuple[str, np.ndarray]:
        """The text of consecutive tokens, and i[n, 2] where each stands in it; parts of a character share its place."""
        from tokenizers.decoders import DecodeStream

        stream, text, length = DecodeStream(skip_special_tokens=False), [], 0
        places = np.zeros((len(ids), 2), np.int64)
        waiting = 0  # the first token whose text is not there yet: a part of a character
        for i, token in enumerate(ids):
            try:
                piece = stream.step(self.tokenizer, int(token))
            except Exception:  # a decoder that goes back over earlier text; the library raises bare ones
                stream = DecodeStream(skip_special_tokens=False)
                piece = stream.step(self.tokenizer, int(token))
            if piece is None:
                continue
            places[waiting : i + 1] = length, length + len(piece)
            text.append(piece)
            length, waiting = length + len(piece), i + 1
        places[waiting:] = length
        return "".join(text), places
