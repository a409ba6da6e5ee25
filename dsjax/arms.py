"""The arms of a study, as data: where the trajectories come from and which loss learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dsjax.attribution import COMPONENTS
from dsjax.errors import require
from dsjax.objectives import resolve
from dsjax.training.sources import SOURCES

Family = Literal["sft", "reward"]


@dataclass(frozen=True)
class Arm:
    """One arm; all arms of a run start from the same base and see the same problems.

    Attributes:
      source: a key of `training.sources.SOURCES`.
      objective: a registered objective or `module:function`.
      family: `sft` or `reward`: which of a run's two step sizes it uses.
      options: of the objective.
      component: `both`, or the only component that learns.
      value_weight: of the critic's loss next to the objective's; above 0 the arm needs a policy with a critic.
    """

    source: str
    objective: str
    family: Family
    options: Mapping[str, Any] = field(default_factory=dict)
    component: str = "both"
    value_weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.source in SOURCES, "source", self.source, SOURCES)
        require(self.family in get_args(Family), "family", self.family, get_args(Family))
        require(self.component in COMPONENTS, "component", self.component, COMPONENTS)
        require(0 <= self.value_weight < float("inf"), "value_weight", self.value_weight, ">= 0 and finite")
        valued = self.value_weight == 0 or self.source == "on-policy"
        require(valued, "source", self.source, "on-policy, whose trajectories carry values, for a critic")
        resolve(self.objective, self.options)

    @property
    def value_options(self) -> dict[str, Any]:
        """The options of the objective that say which return the critic learns."""
        return {k: v for k, v in self.options.items() if k in ("discount", "gae_lambda", "reward_kl")}


ARMS: dict[str, Arm] = {
    "sft-success": Arm("success", "sft", "sft"),
    "sft-synthetic": Arm("synthetic", "sft", "sft"),
    "sft-self": Arm("base-answers", "sft", "sft"),
    "sft-online": Arm("own-answers", "sft", "sft"),
    "reinforce": Arm("on-policy", "reinforce", "reward", {"baseline": "batch_mean"}),
    "rloo": Arm("on-policy", "rloo", "reward"),
    "grpo": Arm("on-policy", "grpo", "reward"),
    "ppo": Arm("on-policy", "ppo", "reward", value_weight=0.5),
    "only-decider": Arm("on-policy", "rloo", "reward", component="decision"),
    "only-sampler": Arm("on-policy", "rloo", "reward", component="sample"),
}


def arm_of(name: str) -> Arm:
    """The arm of that name.

    Raises:
      InputError: for an unknown name.
    """
    require(name in ARMS, "arm", name, ARMS)
    return ARMS[name]
