"""Loss and coefficients of an objective on rollouts, in float64: one compiled program for all files of a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsjax.errors import InputError
from dsjax.numerics import compile_quickly, exact, quick_options
from dsjax.objectives import Objective, resolve
from dsjax.objectives.given import advantage_option, with_advantage
from dsjax.objectives.law import on_law
from dsjax.objectives.registry import OBJECTIVES, name_of
from dsjax.objectives.returns import is_own, loss_and_coefficients, loss_of, require_finite
from dsjax.rollouts.format import Rollouts
from dsjax.trajectories import Trajectories

Program = Callable[[jax.Array, Trajectories, jax.Array | None], tuple[jax.Array, jax.Array]]

_PROGRAMS: dict[str, Program] = {}  # of registered objectives; they are pure, one's own may read what changes


class Evaluator:
    """An objective with its options, ready for one file after the other."""

    def __init__(self, objective: str | Objective, options: Mapping[str, Any] | None = None):
        """Raises `InputError` for an unknown name or option."""
        self.name, self.options = name_of(objective), dict(options or {})
        self._function = resolve(objective, self.options)
        self._own = is_own(self._function)
        self._programs: dict[str, Program] = {}
        plain = all(isinstance(x, bool | int | float | str | None) for x in self.options.values())
        if plain and isinstance(objective, str) and objective in OBJECTIVES:
            self._programs = _PROGRAMS

    def __call__(self, data: Rollouts) -> tuple[float, np.ndarray, str | None]:
        """(loss, c_BxS, what was done with the advantages of the file).

        Raises:
          InputError: for an array that the objective needs and did not get, or numbers that are not finite.
        """
        takes, said = self._advantage(data)
        with exact():
            advantage = jnp.asarray(data.advantage) if takes else None
            logp, traj = jnp.asarray(data.logp), data.trajectories()
            try:
                loss, c_BxS = self._ask(logp, traj, advantage)
            except InputError as error:
                told = self._in_terms_of_the_file(error)
                if told is None:
                    raise
                raise told from error
            loss, c_BxS = float(loss), np.asarray(c_BxS)
        require_finite(self.name, loss, c_BxS)
        return loss, c_BxS, said

    def _advantage(self, data: Rollouts) -> tuple[bool, str | None]:
        """(whether the advantages of the file take the place of the objective's own, what to say about them)."""
        takes = data.advantage is not None and advantage_option(self._function, self.options) is not None
        if data.reward is None and not takes:
            allowed = f"the array reward: {self.name} does not take advantage in its place"
            raise InputError("reward", "no such array", allowed)
        if data.advantage is None:
            return False, None
        if not takes:
            why = "an option says otherwise" if advantage_option(self._function, {}) else "it has no advantage"
            return False, f"advantage: not used by {self.name} ({why})."
        return True, f"advantage: that of the file in place of {self.name}'s own."

    def _with(self, advantage: jax.Array | None) -> Objective:
        found = None if advantage is None else with_advantage(self._function, advantage, self.options)
        return found or self._function

    def _ask(self, logp: jax.Array, traj: Trajectories, advantage: jax.Array | None) -> tuple[Any, Any]:
        function = self._with(advantage)
        lawful = on_law(function, logp, traj)
        if lawful is not function:
            return compile_quickly(partial(loss_and_coefficients, lawful), logp, traj)(logp, traj)
        smallest, rows = int(np.bincount(np.asarray(traj.group)).min()), traj.weight.shape[0]
        if not self._own:
            # The number of groups is part of a program's shape. A larger one changes nothing, and with one a row, an
            # objective that needs larger groups refuses it without seeing the values.
            traj = traj.replace(num_groups=rows if smallest < 2 else rows // 2)
        elif smallest < 2:
            jax.eval_shape(lambda x: loss_of(function, x, traj), logp)  # sees the groups, and refuses them then
        try:
            return self._program(advantage is not None)(logp, traj, advantage)
        except InputError as error:
            if not isinstance(error.__cause__, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
                raise
        return loss_and_coefficients(function, logp, traj)  # one's own that looks at values

    def _program(self, with_advantage: bool) -> Program:
        key = repr((self.name, sorted(self.options.items()), with_advantage))
        if key not in self._programs:

            def ask(logp: jax.Array, traj: Trajectories, advantage: jax.Array | None) -> tuple[jax.Array, jax.Array]:
                return loss_and_coefficients(self._with(advantage), logp, traj)

            self._programs[key] = jax.jit(ask, compiler_options=quick_options())
        return self._programs[key]

    def _in_terms_of_the_file(self, error: InputError) -> InputError | None:
        while isinstance(error.__cause__, InputError):  # raised below the user's own code
            error = error.__cause__
        if error.field in ("old_logp", "ref_logp", "sampler_logp", "values") and error.received is None:
            allowed = f"the array {error.field}: {self.name} needs it"
            if error.field == "old_logp":
                allowed += "; where the tokens were drawn under logp itself, say so: on_policy (--on-policy)"
            return InputError(error.field, "no such array", allowed)
        if error.field == "group size":
            allowed = f"{error.allowed}: the array group must put 2 or more trajectories in each group for {self.name}"
            return InputError("group", f"a group of {error.received:g}", allowed)
        return None
