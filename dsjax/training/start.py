"""Where the parameters of a run come from: at random, or from a checkpoint of another run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax

from dsjax.config import from_dict
from dsjax.errors import InputError, require
from dsjax.io import read_json
from dsjax.policies import Params, Policy
from dsjax.training.checkpoints import Checkpoints, DamagedError, load_checkpoint, save_checkpoint
from dsjax.training.config import TrainConfig
from dsjax.training.multihost import on_process_0
from dsjax.training.sharding import ONE_DEVICE, Layout

KIND = "train"
SAME = ("task", "network", "layers", "model_width", "heads", "rounds", "history", "separate_trunks")
SIZES = ("prompt_vocabulary", "prompt_length", "vocabulary", "length")


def random_params(config: TrainConfig) -> Params:
    """A function of the configuration alone."""
    return _init(config.policy, config.key("init"))


@functools.partial(jax.jit, static_argnums=0)  # of a function that stays: of a method it would compile at every call
def _init(policy: Policy, key: jax.Array) -> Params:
    return policy.init(key)


def _config_of(directory: Path) -> TrainConfig:
    allowed = "the directory of a run of `dsjax train`"

    def read() -> list[Any]:
        stored = read_json(directory / "config.json", "init_from", allowed)
        try:
            return [stored["kind"], stored["config"]]
        except (KeyError, TypeError) as error:
            raise InputError("init_from", str(directory), f"{allowed} ({error})") from error

    kind, data = on_process_0(read)
    require(kind == KIND, "init_from", str(directory), f"{allowed}, not of {kind}")
    return from_dict(TrainConfig, data)


def read_params(config: TrainConfig, layout: Layout = ONE_DEVICE) -> Params:
    """The parameters of `config.init_from`, for the policy of `config`; a critic that they lack is random.

    They lie where the layout puts them.

    Raises:
      InputError: if there is no such run, it has no readable checkpoint, or its policy is another one.
    """
    directory = Path(config.init_from or "")
    other = _config_of(directory)
    for names, here, there in ((SAME, config, other), (SIZES, config.task_of, other.task_of)):
        for name in names:
            value, wanted = getattr(here, name), getattr(there, name)
            require(value == wanted, name, value, f"{wanted!r}, as in init_from = {directory}")
    like = {"params": layout.place(random_params(other))}
    checkpoints = Checkpoints(directory / "checkpoints", other.keep)
    reasons = []
    for step in reversed(checkpoints.steps()):
        try:
            trees, facts = load_checkpoint(checkpoints.folder(step), like)
            best = (facts["best"] or {"step": step})["step"]
            if config.init_checkpoint == "best" and best != step:
                trees, _ = load_checkpoint(checkpoints.folder(best), like)
        except DamagedError as error:
            reasons.append(f"update {step}: {error}")
            continue
        return {**layout.place(random_params(config)), **trees["params"]}
    raise InputError("init_from", str(directory), f"a run with a readable checkpoint ({'; '.join(reasons) or 'none'})")


def start_params(config: TrainConfig, folder: Path, given: Params | None, layout: Layout = ONE_DEVICE) -> Params:
    """The start of a run, which is also its frozen base, where the layout puts it.

    Args:
      config: of the run.
      folder: where the parameters of `init_from` are kept, since the other run may go on or disappear.
      given: those parameters at the first start, to be stored; None later.
      layout: of the run.

    Raises:
      InputError: if they are damaged.
      StorageError: if they cannot be stored.
    """
    if config.init_from is None:
        return layout.place(random_params(config))
    if given is not None:
        save_checkpoint(folder, {"params": given}, {"from": config.init_from})
        return given
    try:
        return load_checkpoint(folder, {"params": layout.place(random_params(config))})[0]["params"]
    except DamagedError as error:
        raise InputError("start", str(folder), f"the parameters that this run started from ({error})") from error
