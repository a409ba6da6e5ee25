"""What a diagnosis says in words: which quantities the given arrays determine, and one paragraph of plain reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsjax.rollouts.format import Rollouts
from dsjax.statistics import LEVEL, Estimate


def availability(data: Rollouts, parts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows {"quantity", "status", "why"}; the status is `available`, `bound`, or `needs gradients`."""
    logit = parts["logit_space"]
    has = parts["gradients"] is not None
    variance = parts["rollouts"]["reward_variance"]
    at_most = "Var(R); no returns in the file" if variance is None else f"Var(R) = {variance:.4g}"

    def why(component: str) -> str:
        if data.score_norm is not None:
            return "score_norm is in the file"
        choices = data.decision_choices if component == "decision" else data.vocabulary
        if component == "decision" and not data.decision_mask.any():
            return "no decision in the file"
        if choices == 2:
            return "|score|^2 = 2 (1 - p)^2 for a two-way softmax; assumes that there are only two choices"
        known = "V unknown" if choices is None else f"V = {choices}"
        return f"the drawn token's probability leaves |score|^2 open ({known}); give score_norm"

    rows = [
        ("(i) coefficient per factor", "available", "derivative of the objective by the log-probs"),
        ("(ii) coefficient per token", "available", "the same"),
        ("(iii) block share", "available", "the same"),
        ("signs of decision coefficients", "available", "the same, with drawn decisions and returns"),
        ("second moment in logit space: pi_d", logit["decision"]["status"], why("decision")),
        ("second moment in logit space: pi_sample", logit["sample"]["status"], why("sample")),
        ("its decision share", logit["share"]["status"], "from both"),
        ("length of the expected gradient in logit space", "bound", "its square is at most the second moment"),
        (
            "E_s + E_d of grad J, J = E[R] (not of another objective)",
            "bound",
            f"at most {at_most}, if the rollouts are on-policy (T3)",
        ),
        (
            "(iv) expected gradient: norms, share, cosine",
            "available" if has else "needs gradients",
            "Euclidean, in the space of the gradients in the file" if has else "log-probs say nothing about directions",
        ),
        (
            "signal to noise of each component",
            "available" if has else "needs gradients",
            "from pairs of independent estimates" if has else "signal and noise cannot be told apart by lengths",
        ),
        ("(iv) energies E_s, E_d and their share", "needs gradients", "and the Fisher matrix: dsjax.attribution"),
    ]
    return [dict(zip(("quantity", "status", "why"), row, strict=True)) for row in rows]


def _words(e: Estimate) -> str:
    return f"{e:.3g}" if e else "undefined"


def reading(name: str, parts: Mapping[str, Any]) -> str:
    """One paragraph about the objective `name` on these rollouts; `parts` are the sections of `Diagnosis`."""
    counts, conventions, balance = parts["rollouts"], parts["conventions"], parts["balance"]
    groups = f" in {counts['groups']} groups" if counts["groups"] is not None else ""
    mean = counts["answer_length_mean"]
    length = "no sampling token" if mean is None else f"answers of {mean:.3g} tokens on average"
    each = f"{counts['decisions_per_trajectory']:.3g} decisions each"
    text = [f"{counts['trajectories']} trajectories{groups}, {length}, {each}."]
    if balance["largest_spread"] is None:
        text.append(f"Under {name} every coefficient is 0: there is nothing to learn from these rollouts.")
    else:
        token, share = conventions["token"], conventions["block"]["share"]
        text.append(
            f"Under {name} a drawn decision carries a coefficient of {_words(token['decision'])} (mean absolute value, "
            f"{LEVEL:.0%} interval) and a sampling token {_words(token['sample'])}."
        )
        if balance["one_coefficient_per_trajectory"]:
            text.append(
                f"Inside of each trajectory all tokens share one coefficient (to {balance['tolerance']:.0e}): balanced "
                "per factor."
            )
        else:
            spread = balance["largest_spread"]
            text.append(f"Tokens of one trajectory differ in their coefficient (by up to {spread:.3g} of the largest).")
        text.append(f"By tokens, decisions hold {_words(share)} of the total absolute coefficient.")
        text.extend(_decision_words(parts))
        logit = parts["logit_space"]["share"]
        if logit["status"] == "available":
            text.append(f"In logit space they hold {_words(logit['lower'])} of a trajectory's squared gradient.")
        elif logit["lower"]:
            low, high = (logit[side].value for side in ("lower", "upper"))
            text.append(
                f"In logit space they hold between {low:.3g} and {high:.3g} of a trajectory's squared gradient "
                "(bounds: the drawn token's probability is not its whole softmax)."
            )
    if parts["gradients"] is None:
        text.append(
            "None of this is the share of the expected gradient (convention iv): that needs gradients. Even "
            "coefficients do not tell reward from SFT; signs and directions do."
        )
    else:
        found = parts["gradients"]
        text.append(
            f"In the {found['estimates']} gradients of the file, decisions hold {_words(found['signal_share'])} "
            "of the squared length of the expected gradient (noise removed; Euclidean, and for the objective that the "
            "gradients were taken of)."
        )
    return " ".join(text)


def _decision_words(parts: Mapping[str, Any]) -> list[str]:
    text = []
    for name, d in parts["decisions"].items():
        if d["pushed_up"] is not None:
            up, down = d["pushed_up"], d["pushed_down"]
            text.append(f"Of {d['count']} drawn {name}, {up:.0%} are pushed up and {down:.0%} down.")
    outcome = parts["outcome"]
    if "all" in outcome and outcome["all"]["agrees"]:
        agrees, against = (outcome["all"][word].value for word in ("agrees", "disagrees"))
        text.append(
            f"The sign agrees with the outcome (return >= {outcome['success_from']:.3g}) for {agrees:.0%} of the "
            f"decisions and goes against it for {against:.0%}."
        )
    return text
