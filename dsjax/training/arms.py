"""The arms of a study, as data: where the trajectories come from and which loss learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dsjax.attribution import COMPONENTS
from dsjax.errors import require
from dsjax.objectives import resolve
from dsjax.own import import_name
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
      frozen: whether the sampler stays as it is: of the parameters only those learn that `pi_d` alone reads.
      length_power: the weight of the decision token in an SFT loss is L^length_power (times `decision_weight`, if
        `options` has it) for answers of L tokens: 1 gives the decision as much weight as the whole answer.
    """

    source: str
    objective: str
    family: Family
    options: Mapping[str, Any] = field(default_factory=dict)
    component: str = "both"
    value_weight: float = 0.0
    length_power: float = 0.0
    frozen: bool = False

    def __post_init__(self) -> None:
        require(self.source in SOURCES, "source", self.source, SOURCES)
        require(self.family in get_args(Family), "family", self.family, get_args(Family))
        require(self.component in COMPONENTS, "component", self.component, COMPONENTS)
        require(0 <= self.value_weight < float("inf"), "value_weight", self.value_weight, ">= 0 and finite")
        valued = self.value_weight == 0 or self.source == "on-policy"
        require(valued, "source", self.source, "on-policy, whose trajectories carry values, for a critic")
        weighted = self.length_power == 0 or self.family == "sft"
        require(weighted, "length_power", self.length_power, "0, unless the family is sft")
        alone = not self.frozen or self.component == "decision"
        require(alone, "component", self.component, "decision, where the sampler is frozen")
        resolve(self.objective, self.options_at(1))

    def options_at(self, length: int) -> dict[str, Any]:
        """The options of the objective for answers of this many tokens."""
        if self.length_power == 0:
            return dict(self.options)
        weight = self.options.get("decision_weight", 1.0) * length**self.length_power
        return {**self.options, "decision_weight": weight}

    @property
    def value_options(self) -> dict[str, Any]:
        """The options of the objective that say which return the critic learns."""
        return {k: v for k, v in self.options.items() if k in ("discount", "gae_lambda", "reward_kl")}


KL = 0.1  # beta of the arms with a KL penalty
EVERY = -1e9  # a return that every episode reaches

ARMS: dict[str, Arm] = {
    "sft-success": Arm("success", "sft", "sft"),
    "sft-synthetic": Arm("synthetic", "sft", "sft"),
    "sft-mixture": Arm("chains-and-guesses", "sft", "sft"),
    "sft-self": Arm("base-answers", "sft", "sft"),
    "sft-self-once": Arm("base-answers-once", "sft", "sft"),
    "sft-self-sqrt-l": Arm("base-answers", "sft", "sft", length_power=0.5),
    "sft-self-l": Arm("base-answers", "sft", "sft", length_power=1.0),
    "sft-online": Arm("own-answers", "sft", "sft"),
    "sft-labels": Arm("own-answers", "sft", "sft", component="decision"),
    "sft-value": Arm("value-labels", "sft", "sft"),
    "sft-frozen": Arm("own-answers", "sft", "sft", component="decision", frozen=True),
    "rft": Arm("on-policy", "rft", "sft"),
    "rft-round": Arm("base-episodes", "rft", "sft"),
    "rft-decider": Arm("on-policy", "rft", "sft", component="decision"),
    "rft-sampler": Arm("on-policy", "rft", "sft", component="sample"),
    "imitate-all": Arm("on-policy", "rft", "sft", {"threshold": EVERY}),
    "reinforce-plain": Arm("on-policy", "reinforce", "reward", {"baseline": "none"}),
    "reinforce": Arm("on-policy", "reinforce", "reward", {"baseline": "batch_mean"}),
    "rloo": Arm("on-policy", "rloo", "reward"),
    "grpo": Arm("on-policy", "grpo", "reward"),
    "dr-grpo": Arm("on-policy", "dr_grpo", "reward"),
    "grpo-trajectory-kl": Arm("on-policy", "grpo", "reward", {"reward_kl": KL}),
    "grpo-token-kl": Arm("on-policy", "grpo", "reward", {"token_kl": KL, "kl_estimator": "k2"}),
    "ppo": Arm("on-policy", "ppo", "reward", value_weight=0.5),
    "random-reward": Arm("on-policy-shuffled", "rloo", "reward"),
    "coin-reward": Arm("on-policy-coin", "reinforce", "reward", {"baseline": "none"}),
    "only-decider": Arm("on-policy", "rloo", "reward", component="decision"),
    "rloo-frozen": Arm("on-policy", "rloo", "reward", component="decision", frozen=True),
    "only-sampler": Arm("on-policy", "rloo", "reward", component="sample"),
}


def arm_of(name: str) -> Arm:
    """The arm of that name: of `ARMS`, or a user's own `module:name`.

    That is an `Arm`, or an objective `(logp_BxS, trajectories) -> (sum, count)`, which then learns from episodes of the
    current policy, with the step size of reward arms.

    Raises:
      InputError: for a name that is neither.
    """
    if ":" not in name:
        require(name in ARMS, "arm", name, [*ARMS, "module:name"])
        return ARMS[name]
    found = import_name("arm", name)
    require(isinstance(found, Arm) or callable(found), "arm", name, "module:name of an Arm or of an objective")
    return found if isinstance(found, Arm) else Arm("on-policy", name, "reward")
