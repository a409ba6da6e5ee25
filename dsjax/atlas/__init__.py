"""The objective atlas: exact decision shares of every objective, for answers of any length.

    rows = ds.atlas({"mine": my_loss, "REINFORCE": "reinforce"}, lengths=(1, 8, 64, 512))

The folder is the function too: `dsjax.atlas.rows.compute` has its arguments, `dsjax.atlas.table` prints rows.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that can be called: whoever imports a file of the folder makes `dsjax.atlas` the folder."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from dsjax.atlas.rows import compute

        return compute(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
