"""Measures of one history and split over all trainings, resampled once and then compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.evaluation.components import (
    accounting_statistics,
    attempts_that_count,
    component_statistics,
    expected_accuracy,
    log_odds_statistic,
)
from dsjax.evaluation.deciders import accuracy_at_rate, at_equal_cost, brier_score, rules
from dsjax.statistics import (
    ANY,
    DIFFERENCE,
    PROBABILITY,
    Replicated,
    Statistic,
    auroc,
    bootstrap_weights,
    ratio_of_sums,
)
from dsjax.training.config import BASE


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One training of all models on one split; see `dsjax.study.trainings.evaluate` for the arrays."""

    models: tuple[str, ...]
    right: np.ndarray  # bool[M, N, K]
    answers: np.ndarray  # i8[M, N, K, L]
    own: np.ndarray  # f[M, N, K]
    log_stop: np.ndarray  # f[M, M, N, T] of (sampler, decider)

    @classmethod
    def read(cls, file: Path, models: Sequence[str]) -> Evaluated:
        """From the file of an evaluation."""
        with np.load(file, allow_pickle=False) as data:
            return cls(tuple(models), data["right"], data["answers"], data["own"], data["log_stop"])

    @property
    def rounds(self) -> int:
        """T."""
        return self.log_stop.shape[-1]

    @property
    def problems(self) -> int:
        """N."""
        return self.right.shape[1]

    def index(self, model: str) -> int:
        """Of a model in the arrays."""
        return self.models.index(model)

    def rights(self) -> dict[str, np.ndarray]:
        """bool[N, T] by sampler."""
        return {name: self.right[i, :, : self.rounds] for i, name in enumerate(self.models)}

    def verdict(self, sampler: str, decider: str) -> np.ndarray:
        """log pi_d(STOP), f[N, T]."""
        return self.log_stop[self.index(sampler), self.index(decider)]

    def stop(self, sampler: str, decider: str) -> np.ndarray:
        """P(STOP), f[N, T]."""
        return np.exp(self.verdict(sampler, decider).astype(float))


class Measures:
    """All measures of one history and split; each is resampled when first asked for, with common weights."""

    def __init__(self, trainings: Sequence[Evaluated], history: str, resamples: int):
        self.trainings = trainings
        self.history = history
        self.models = trainings[0].models
        self._weights = bootstrap_weights(trainings[0].problems, resamples)
        self._kept: dict[tuple[str, ...], Replicated] = {}
        self._used: dict[str, list[dict[str, list[dict[str, np.ndarray]]]]] = {}

    def _of(
        self, key: tuple[str, ...], statistic: Callable[[Evaluated], Statistic], within: tuple[float, float]
    ) -> Replicated:
        if key not in self._kept:
            self._kept[key] = Replicated.of([statistic(t) for t in self.trainings], self._weights, within)
        return self._kept[key]

    @cached_property
    def base_rate(self) -> list[float]:
        """Part of its decisions in which the base says RESAMPLE, by training."""
        decided = (attempts_that_count(self.history, t.stop(BASE, BASE))[0] for t in self.trainings)
        return [float(1 - stop.mean()) for stop in decided]

    def of_model(self, measure: str, model: str) -> Replicated:
        """A measure of one model: one of `component_statistics`, or one of four more.

        brier; log_odds of the final accuracy; accuracy_at_base_rate, of its ranking with the base's resample rate;
        auroc_on_base, of its decider on the base's answers.
        """

        def statistic(t: Evaluated) -> Statistic:
            right, stop = t.rights()[model], t.stop(model, model)
            counted, decided = attempts_that_count(self.history, right, stop)
            if measure == "brier":
                return brier_score(decided, counted)
            if measure == "log_odds":
                return log_odds_statistic(right, t.verdict(model, model))
            if measure == "accuracy_at_base_rate":
                return accuracy_at_rate(right, stop, self.base_rate[self.trainings.index(t)])
            if measure == "auroc_on_base":
                return auroc(*attempts_that_count(self.history, t.stop(BASE, model), t.rights()[BASE]))
            return component_statistics(right, stop, self.history)[measure]

        other = {"log_odds": ANY, "youden": DIFFERENCE, "gain": DIFFERENCE, "rounds": (1.0, self.trainings[0].rounds)}
        return self._of((measure, model), statistic, other.get(measure, PROBABILITY))

    def swapped(self, sampler: str, decider: str) -> Replicated:
        """Final accuracy of a sampler with a decider."""

        def statistic(t: Evaluated) -> Statistic:
            kept = expected_accuracy(t.rights()[sampler], t.stop(sampler, decider))
            return ratio_of_sums(kept, np.ones(len(kept)))

        return self._of(("swapped", sampler, decider), statistic, PROBABILITY)

    def part(self, scale: str, part: str, arm: str, against: str) -> Replicated:
        """`accounting_statistics` of arm - against: scale log_odds or accuracy, part sampler, decider or total."""

        def statistic(t: Evaluated) -> Statistic:
            verdicts = {(s, d): t.verdict(s, d) for s in (arm, against) for d in (arm, against)}
            return accounting_statistics(t.rights(), verdicts, arm, against)[scale][part]

        return self._of((scale, part, arm, against), statistic, ANY if scale == "log_odds" else DIFFERENCE)

    def _rules(self, model: str) -> list[dict[str, list[dict[str, np.ndarray]]]]:
        """`deciders.rules` of a model in each training; worked out once."""
        if model not in self._used:
            indexed = [(t, t.index(model)) for t in self.trainings]
            self._used[model] = [rules(t.answers[i], t.right[i], np.exp(t.own[i].astype(float))) for t, i in indexed]
        return self._used[model]

    def against_rule(self, rule: str, model: str) -> Replicated:
        """Final accuracy at T less that of a rule of `deciders.rules` at equal cost; history `none`."""

        def statistic(t: Evaluated) -> Statistic:
            used = self._rules(model)[self.trainings.index(t)]
            return at_equal_cost(used[rule], used["decider"][t.rounds - 1])

        return self._of(("against", rule, model), statistic, DIFFERENCE)

    def curves(self, model: str) -> dict[str, list[dict[str, float]]]:
        """Mean accuracy and attempts of each rule of `deciders.rules` for k = 1..K; history `none`."""
        found = self._rules(model)
        return {
            rule: [
                {
                    "accuracy": float(np.mean([f[rule][k]["right"].mean() for f in found])),
                    "attempts": float(np.mean([f[rule][k]["attempts"].mean() for f in found])),
                }
                for k in range(len(found[0][rule]))
            ]
            for rule in found[0]
        }

    def pooled(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """P(STOP) and verdicts of all trainings together, of the attempts that count."""
        pairs = [attempts_that_count(self.history, t.stop(model, model), t.rights()[model]) for t in self.trainings]
        stop, right = (np.concatenate(x) for x in zip(*pairs, strict=True))
        return stop, right

    def named(self, data: Mapping[str, Any]) -> Replicated:
        """What a hypothesis is about.

        `{"measure", "arm", "against"}`: difference of a measure of two models, or with `part` (sampler, decider, total)
        of `log_odds` or `accuracy` the part of that difference; with `rule` instead of `against`, over that rule at
        equal cost; with `less` the part named by it taken off: decider part minus sampler part.
        """
        arm = data["arm"]
        if "rule" in data:
            return self.against_rule(data["rule"], arm)
        against = data["against"]
        if "part" in data:
            found = self.part(data["measure"], data["part"], arm, against)
            return found - self.part(data["measure"], data["less"], arm, against) if "less" in data else found
        return self.of_model(data["measure"], arm) - self.of_model(data["measure"], against)
