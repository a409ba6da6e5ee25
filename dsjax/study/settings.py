"""Settings of a preset of a study of trainings, as its study.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from dsjax.config import from_dict, require_int, require_positive, require_range, require_seed
from dsjax.errors import InputError, require
from dsjax.io import require_memory
from dsjax.policies.base import History
from dsjax.tasks.base import MOST_EVALUATION_PROBLEMS
from dsjax.training.arms import Arm, Family, arm_of
from dsjax.training.config import ABSURD, BASE, TrainConfig

MOST_JOBS = 100_000

RUN, CANNOT_TELL = "run", "cannot tell"  # verdicts on a cell before it is run


@dataclass(frozen=True)
class Sweep:
    """Step size and problems an update are chosen by a sweep, with the same effort for both families of arms.

    Attributes:
      sft: the arm that stands for all SFT arms.
      reward: the arm that stands for all reward arms.
      learning_rates: step sizes to try.
      prompts: problems an update to try; one choice for all arms, which see the same problems.
      seed: of the models of the sweep, which are used for nothing else.
      problems: fresh in-distribution problems that the choice is made on; neither trained nor evaluated on.
    """

    sft: str = "sft-self"
    reward: str = "rloo"
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    prompts: tuple[int, ...] = (32,)
    seed: int = 1000
    problems: int = 1000

    def __post_init__(self) -> None:
        for family in get_args(Family):
            name = getattr(self, family)
            require(arm_of(name).family == family, f"sweep.{family}", name, f"an arm of the family {family}")
        for name in ("learning_rates", "prompts"):
            require(bool(getattr(self, name)), f"sweep.{name}", getattr(self, name), "at least one value")
        for rate in self.learning_rates:
            require_positive("sweep.learning_rates", rate)
        require_range("sweep.problems", self.problems, 1, MOST_EVALUATION_PROBLEMS, "for the sake of memory")
        require_seed("sweep.seed", self.seed)
        for number in self.prompts:
            require_int("sweep.prompts", number, 1)


@dataclass(frozen=True)
class Theory:
    """A job without needs next to the trainings.

    Attributes:
      kind: `module:function`.
      options: of the job.
      work: as that of a training, whose amount of work is its number of updates; for progress bars only.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    work: float = 1.0

    @classmethod
    def read(cls, name: str, entry: Any) -> Theory:
        """From an entry of the settings' `theory`: a kind alone, or an object with the fields of this class.

        Raises:
          InputError: for an unknown field or an impossible value.
        """
        return from_dict(cls, {"kind": entry} if isinstance(entry, str) else entry, f"theory.{name}")


@dataclass(frozen=True)
class Variant:
    """An arm of a study that is another one with something changed, or another one looked at earlier.

    Attributes:
      arm: what trains: a name of `dsjax.training.arms.ARMS`, or a user's own.
      train: fields of `TrainConfig` in place of those of all arms: another step size, set of problems, strength of KL.
      early: instead of `arm`: an arm of the study, at the checkpoint with its best final accuracy in distribution on
        the problems of its curves. It is trained once.
    """

    arm: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    early: str = ""

    def __post_init__(self) -> None:
        require(bool(self.arm) != bool(self.early), "variants", self.arm or self.early, "either `arm` or `early`")
        require(not (self.early and self.train), "variants", self.train, "nothing for an arm that is stopped early")


CEILINGS = ("regret", "headroom", "room")


@dataclass(frozen=True)
class Cell:
    """A comparison that the study is about, on every split: an arm (of reward) with another one (of imitation).

    Attributes:
      id: its name.
      arm: of reward.
      against: of imitation.
      ceiling: what bounds the gap in accuracy before any arm is trained, of the base: `regret` of imitation (T16),
        `headroom` of judgement, or `room`, all that its accuracy lacks to 1.
    """

    id: str
    arm: str
    against: str
    ceiling: str = "room"

    def __post_init__(self) -> None:
        require(self.ceiling in CEILINGS, f"ceiling of cell {self.id}", self.ceiling, CEILINGS)


@dataclass(frozen=True)
class Settings:
    """One preset.

    Attributes:
      arms: names of `dsjax.training.arms.ARMS`, of a user's own, or of `variants`.
      variants: arms of this study alone, by name; see `Variant`.
      cells: the comparisons that it is about; see `Cell`.
      power: of `dsjax study power`, by cell and split: what is known before the run; an arm that is only in cells that
        cannot be told anywhere is not trained.
      histories: what later rounds see of earlier ones.
      seeds: trainings of everything, numbered from `first_seed`.
      seeds_of: another number of them for a history, by its name.
      first_seed: of the first.
      train: fields of `TrainConfig` for all trainings.
      base: more of them for the base.
      arm: more of them for the arms.
      sweep: how step sizes are chosen; None: they are those of `arm`.
      evaluation_problems: fixed held-out problems a split, after training (`train` has those along the training).
      attempts: at each problem, for rules that use more than T attempts; history `none`.
      theory: jobs without needs, by name: what theory says, and checks that it holds; see `Theory`.
      comparisons: pairs of models whose differences are reported, besides each arm's to the base.
      shown: arms in the figures, in this order; all by default.
    """

    arms: tuple[str, ...]
    histories: tuple[str, ...] = ("none", "full")
    seeds: int = 3
    seeds_of: dict[str, int] = field(default_factory=dict)
    first_seed: int = 0
    train: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    arm: dict[str, Any] = field(default_factory=dict)
    sweep: Sweep | None = field(default_factory=Sweep)
    evaluation_problems: int = 1000
    attempts: int = 8
    theory: dict[str, Any] = field(default_factory=dict)
    comparisons: tuple[tuple[str, ...], ...] = ()
    shown: tuple[str, ...] = ()
    variants: dict[str, Any] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    power: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.arms) and len(set(self.arms)) == len(self.arms), "arms", self.arms, "each arm once")
        for name in self.arms:
            require(self.arm_of(name).value_weight == 0, "arms", name, "arms without a critic")
            early = self.variant(name).early
            allowed = f"{early}, at which it looks, among the arms, and no such arm itself"
            require(not early or (early in self.arms and not self.variant(early).early), "arms", name, allowed)
        for pair in self.comparisons:
            require(len(pair) == 2, "comparisons", pair, "pairs of arms")
            for name in pair:
                self.arm_of(name)
        for cell in self.cells:
            for name in (cell.arm, cell.against):
                self.arm_of(name)
        ids = [cell.id for cell in self.cells]
        require(len({*ids}) == len(ids), "cells", ids, "each name once")
        for name in self.shown:
            self.arm_of(name)
        known = get_args(History)
        ok = (
            bool(self.histories) and len(set(self.histories)) == len(self.histories) and set(self.histories) <= {*known}
        )
        require(ok, "histories", self.histories, known)
        for name in ("seeds", "evaluation_problems", "attempts"):
            require_int(name, getattr(self, name), 1)
        for name, number in self.seeds_of.items():
            require(name in self.histories, "seeds_of", name, self.histories)
            require_int(f"seeds_of.{name}", number, 1)
        require_seed("first_seed", self.first_seed)
        numbers = [self.seeds_of.get(history, self.seeds) for history in self.histories]
        require_seed("first_seed + seeds - 1", self.first_seed + max(numbers) - 1)
        jobs = sum(numbers) * (len(self.arms) + 2)
        require(jobs <= MOST_JOBS, "seeds", max(numbers), f"a number that makes at most {MOST_JOBS} jobs, not {jobs}")
        # Samples and their verdicts, of each model: what an evaluation holds and writes.
        kept = 8 * self.attempts * self.evaluation_problems * (len(self.arms) + 1)
        asked = self.attempts, self.evaluation_problems
        require_memory("attempts and evaluation_problems", asked, kept, ABSURD)
        most, why = MOST_EVALUATION_PROBLEMS, "for the sake of memory"
        require_range("evaluation_problems", self.evaluation_problems, 1, most, why)
        if self.sweep is not None:
            allowed = f"seeds that do not include {self.sweep.seed}, which is the sweep's"
            apart = all(self.sweep.seed not in self.seeds_for(history) for history in self.histories)
            require(apart, "first_seed", self.first_seed, allowed)
        for name, entry in self.theory.items():
            Theory.read(name, entry)
        for name in (BASE, *(name for name in self.arms if not self.variant(name).early)):
            self.config(name, self.histories[0], self.first_seed, f"settings of {name}")
        rounds = self.config(BASE, self.histories[0], 0).rounds
        require(self.attempts >= rounds, "attempts", self.attempts, f"at least rounds = {rounds}")

    def variant(self, name: str) -> Variant:
        """What an arm of the study is; one that is no variant is itself.

        Raises:
          InputError: for a variant that cannot be read.
        """
        if name not in self.variants:
            return Variant(name)
        return from_dict(Variant, self.variants[name], f"variants.{name}")

    def arm_of(self, name: str) -> Arm:
        """The arm that trains under this name.

        Raises:
          InputError: for a name that is neither an arm's nor a variant's.
        """
        variant = self.variant(name)
        return arm_of(variant.arm) if variant.arm else self.arm_of(variant.early)

    @property
    def trained(self) -> tuple[str, ...]:
        """The arms to train: without those that are only in cells of which the power says that they cannot tell."""

        def told(cell: Cell) -> bool:
            splits = self.power.get(cell.id, {}).values()
            return not splits or any(split["verdict"] == RUN for split in splits)

        in_some = {name for cell in self.cells for name in (cell.arm, cell.against)}
        needed = {name for cell in self.cells if told(cell) for name in (cell.arm, cell.against)}
        needed |= {self.variant(name).early for name in needed}
        return tuple(name for name in self.arms if name in needed or name not in in_some)

    def seeds_for(self, history: str) -> range:
        """The seeds of a history."""
        return range(self.first_seed, self.first_seed + self.seeds_of.get(history, self.seeds))

    def config(self, arm: str, history: str, seed: int, where: str = "settings", **fields: Any) -> TrainConfig:
        """The training of an arm, or of the base.

        Raises:
          InputError: for an unknown field or an impossible value.
        """
        own, variant = self.base if arm == BASE else self.arm, self.variant(arm)
        for name in ("arm", "history", "seed", "init_from", "init_checkpoint"):
            for given in (self.train, own, variant.train):
                require(name not in given, f"{where}.{name}", given.get(name), "nothing: the study sets it")
        data: Mapping[str, Any] = {**self.train, **own, **variant.train}
        data = {**data, "arm": variant.arm, "history": history, "seed": seed, **fields}
        try:
            return from_dict(TrainConfig, data)
        except InputError as error:
            raise InputError(f"{where}: {error.field}", error.received, error.allowed) from error

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Settings:
        """From the settings of a preset.

        Raises:
          InputError: for an unknown field or an impossible value.
        """
        return from_dict(cls, settings)
