"""Measures of one history and split over all seeds, resampled once and then compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsjax.evaluation import accounting, regret
from dsjax.evaluation.components import component_statistics, rates, samples_that_count
from dsjax.evaluation.deciders import Use, accuracy_at_rate, at_equal_cost, brier_score, rules
from dsjax.io import interpreted, read_arrays
from dsjax.statistics import (
    ANY,
    DIFFERENCE,
    PROBABILITY,
    Bootstrap,
    Range,
    Resampled,
    Statistic,
    auroc,
    difference,
    mean,
)
from dsjax.training.config import BASE

TERMS = accounting.Terms._fields


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The models of one seed on one split; see `dsjax.study.trainings.evaluate` for the arrays."""

    models: tuple[str, ...]
    right: np.ndarray  # bool[M, N, K]
    answers: np.ndarray  # i8[M, N, K, L]
    own: np.ndarray  # f[M, N, K]
    log_stop: np.ndarray  # f[M, M, N, T] of (sampler, decider)

    @classmethod
    def read(cls, file: Path, models: Sequence[str]) -> Evaluated:
        """From the file of an evaluation."""
        data = read_arrays(file, "evaluation")
        with interpreted("evaluation", file, "arrays of an evaluation"):
            return cls(tuple(models), data["right"], data["answers"], data["own"], data["log_stop"])

    @property
    def rounds(self) -> int:
        """T."""
        return self.log_stop.shape[-1]

    @property
    def problems(self) -> int:
        """N."""
        return self.right.shape[1]

    def right_of(self, sampler: str) -> np.ndarray:
        """Verdicts on the samples of the T rounds, bool[N, T]."""
        return self.right[self.models.index(sampler), :, : self.rounds]

    def stop(self, sampler: str, decider: str) -> np.ndarray:
        """P(STOP), f[N, T]."""
        return accounting.probability(self.log_stop[self.models.index(sampler), self.models.index(decider)])

    def rules(self, model: str) -> dict[str, list[Use]]:
        """`deciders.rules` of a model, on all K samples."""
        i = self.models.index(model)
        return rules(self.answers[i], self.right[i], accounting.probability(self.own[i]))


def _limit(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> accounting.Parts:
    """T10's limit of one model."""
    return accounting.limit_parts(p[0, 0], a[0, 0], b[0, 0])


class Measures:
    """All measures of one history and split; each is resampled when first asked for, with common weights."""

    def __init__(self, seeds: Sequence[Evaluated], history: str, resamples: int):
        self.seeds = seeds
        self.history = history
        self.models = seeds[0].models
        self._bootstrap = Bootstrap(seeds[0].problems, resamples)
        self._resampled: dict[tuple[str, ...], Resampled] = {}
        self._used: dict[str, list[dict[str, list[Use]]]] = {}

    def _of(self, key: tuple[str, ...], statistic: Callable[[Evaluated], Statistic], within: Range) -> Resampled:
        if key not in self._resampled:
            self._resampled[key] = self._bootstrap.of(*map(statistic, self.seeds), within=within)
        return self._resampled[key]

    def _counted(self, e: Evaluated, sampler: str, decider: str) -> list[np.ndarray]:
        """Verdicts and P(STOP) of the samples that count."""
        return samples_that_count(self.history, e.right_of(sampler), e.stop(sampler, decider))

    def of_model(self, measure: str, model: str) -> Resampled:
        """A measure of one model: one of `component_statistics`, or one of six more.

        brier; log_odds of the final accuracy; accuracy_at_base_rate, of its ranking with the base's resample rate;
        auroc_on_base, of its decider on the base's answers; regret, what a threshold on its knowledge could earn over
        imitation (`regret.of_samples`); headroom, what a decider that knows right from wrong could earn over its own.
        """
        if measure in ("accuracy", "log_odds", "rounds"):
            return self.swapped(model, model, measure)

        def statistic(e: Evaluated) -> Statistic:
            right, stop = self._counted(e, model, model)
            if measure == "brier":
                return brier_score(stop, right)
            if measure == "accuracy_at_base_rate":
                rate = float(1 - self._counted(e, BASE, BASE)[1].mean())
                return accuracy_at_rate(e.right_of(model), e.stop(model, model), rate)
            if measure == "auroc_on_base":
                right, stop = self._counted(e, BASE, model)
                return auroc(stop, right)
            if measure == "regret":
                return regret.of_samples(e.stop(model, model), e.right_of(model))
            if measure == "headroom":
                some = mean(e.right_of(model).any(axis=1).astype(float))
                return difference(some, accounting.measures(e.right_of(model), e.stop(model, model))["accuracy"])
            return component_statistics(e.right_of(model), e.stop(model, model), self.history)[measure]

        return self._of((measure, model), statistic, DIFFERENCE if measure in ("youden", "gain") else PROBABILITY)

    def swapped(self, sampler: str, decider: str, measure: str = "accuracy") -> Resampled:
        """Final accuracy of a sampler with a decider, its log_odds, or rounds: `accounting.measures`."""

        def statistic(e: Evaluated) -> Statistic:
            return accounting.measures(e.right_of(sampler), e.stop(sampler, decider))[measure]

        within = {"log_odds": ANY, "rounds": (1.0, self.seeds[0].rounds)}.get(measure, PROBABILITY)
        return self._of((measure, sampler, decider), statistic, within)

    def part(self, scale: str, part: str, arm: str, against: str) -> Resampled:
        """What `sampler` or `decider` brings to the difference arm - against, or their `total`.

        On the scales `log_odds` and `accuracy` the Shapley parts of swapping one component at a time. On the scale
        `three_terms` those of the limit of the log-odds after many rounds, at pooled p, a, b of each sampler with each
        decider (T22): `sampler`, the change of logit(p); `mix`, what the new sampler's answers do to log(a/b);
        `decider`, what the new decider does to it. On the scale `limit` the changes of logit(p) and of log(a/b) of the
        two models themselves, which are no split between the components: `mix` is in its `decider`.
        """
        if scale == "three_terms":
            return self._of_rates((against, arm), part, lambda p, a, b: accounting.three_terms(p[:, 0], a, b))
        if scale == "limit":
            new, old = (self._of_rates((model,), part, _limit) for model in (arm, against))
            return new - old

        def value(sampler: str, decider: str) -> Resampled:
            return self.swapped(sampler, decider, scale)

        if part == "total":
            return value(arm, arm) - value(against, against)
        return getattr(accounting.shapley(value, (against, against), (arm, arm)), part)

    def _of_rates(self, models: Sequence[str], part: str, terms: Callable[..., Any]) -> Resampled:
        """A part, or the `total`, of terms of p, a, b by (sampler, decider), seed by seed and resample by resample."""
        found = {k: [[self._rate(k, s, d) for d in models] for s in models] for k in "pab"}

        def of(field: str) -> np.ndarray:
            parts = terms(*(np.array([[getattr(x, field) for x in row] for row in found[k]]) for k in "pab"))
            return np.sum(parts, axis=0) if part == "total" else getattr(parts, part)

        with np.errstate(invalid="ignore"):  # inf - inf is NaN: it does not exist
            return Resampled(of("values"), of("samples"))

    def _rate(self, rate: str, sampler: str, decider: str) -> Resampled:
        """p, a or b of a sampler with a decider, pooled over the samples that count."""

        def statistic(e: Evaluated) -> Statistic:
            return rates(*self._counted(e, sampler, decider))[rate]

        return self._of((rate, sampler, decider), statistic, PROBABILITY)

    def _rules(self, model: str) -> list[dict[str, list[Use]]]:
        """Of each seed; worked out once."""
        if model not in self._used:
            self._used[model] = [e.rules(model) for e in self.seeds]
        return self._used[model]

    def against_rule(self, rule: str, model: str) -> Resampled:
        """Final accuracy at T less that of a rule of `deciders.rules` at equal cost; history `none`."""

        def statistic(e: Evaluated) -> Statistic:
            used = self._rules(model)[self.seeds.index(e)]
            return at_equal_cost(used[rule], used["decider"][e.rounds - 1])

        return self._of(("against", rule, model), statistic, DIFFERENCE)

    def curves(self, model: str) -> dict[str, list[dict[str, float]]]:
        """Mean accuracy and samples ("attempts") of each rule of `deciders.rules` for k = 1..K; history `none`."""
        found = self._rules(model)

        def point(uses: Sequence[Use]) -> dict[str, float]:
            names = {"accuracy": "right", "attempts": "samples"}
            return {name: float(np.mean([getattr(use, of).mean() for use in uses])) for name, of in names.items()}

        return {rule: [point(uses) for uses in zip(*(f[rule] for f in found), strict=True)] for rule in found[0]}

    def pooled(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """P(STOP) and verdicts of all seeds together, of the samples that count."""
        right, stop = (
            np.concatenate(x) for x in zip(*(self._counted(e, model, model) for e in self.seeds), strict=True)
        )
        return stop, right

    def named(self, data: Mapping[str, Any]) -> Resampled:
        """What a hypothesis is about.

        `{"measure", "arm", "against"}`: difference of a measure of two models, or with `part` (sampler, decider, total)
        of `log_odds`, `accuracy`, `three_terms` (which has mix too) or `limit` the part of that difference; with
        `rule` instead of `against`, over that rule at equal cost; with `less` the part named by it taken off: decider
        part minus sampler part.
        """
        arm = data["arm"]
        if "rule" in data:
            return self.against_rule(data["rule"], arm)
        against = data["against"]
        if "part" in data:
            found = self.part(data["measure"], data["part"], arm, against)
            return found - self.part(data["measure"], data["less"], arm, against) if "less" in data else found
        return self.of_model(data["measure"], arm) - self.of_model(data["measure"], against)
