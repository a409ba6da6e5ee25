import json
import math

import matplotlib as mpl
import pytest

from dsjax.figures.style import draw_figures

NAMES = ["F1_share_against_length", "F4_training_curves", "F5_components", "F6_cross_swap", "F7_log_odds"]


def interval(value, width=0.04):
    return {"value": value, "low": value - width, "high": value + width}


def synthetic(arms=("sft-success", "rloo"), splits=("in", "carry")):
    models = ["base", *arms]
    kinds = {"reward": 1.0, "SFT": 0.8, "own-token KL": 0.6, "trajectory KL": 0.4}
    lengths = [
        {"objective": name, "length": n, "share": c / n ** (c * 1.5), "euclidean_share": 0.7 * c / n}
        for name, c in kinds.items()
        for n in range(1, 8)
    ]

    def point(i, j):
        return 0.35 + 0.05 * i + 0.1 * (1 - math.exp(-j / 4)) * (1 + i / 4)

    def evaluation(i, split):
        return [
            {"step": 20 * j, "split": split, "rounds": 2.0}
            | {k: point(i, j) - 0.2 * (split != "in") for k in ("p", "a", "b", "auroc", "accuracy", "gain")}
            for j in range(8)
        ]

    return {
        "config": {"arms": list(arms), "rounds": 4},
        "lengths": lengths,
        "curves": {
            model: {
                "evaluation": [row for split in splits for row in evaluation(i, split)],
                "gradient": [{"step": 10 * j, "share": 0.1 + 0.03 * i + 0.01 * (j % 3)} for j in range(15)],
            }
            for i, model in enumerate(models)
        },
        "evaluation": {
            split: {
                model: {k: interval(0.3 + 0.04 * i + 0.1 * n) for n, k in enumerate(("b", "p", "a"))}
                | {k: interval(0.5) for k in ("auroc", "accuracy", "gain", "rounds")}
                | {
                    "roc": {
                        "wrong_accepted": [x / 20 for x in range(21)],
                        "right_accepted": [(x / 20) ** (1 / (1 + i / 3)) for x in range(21)],
                    }
                }
                for i, model in enumerate(models)
            }
            for split in splits
        },
        "swap": {
            split: {
                s: {d: interval(0.3 + 0.05 * i + 0.02 * j - 0.1 * (split != "in")) for j, d in enumerate(models)}
                for i, s in enumerate(models)
            }
            for split in splits
        },
        "accounting": {
            split: {
                arm: {
                    "base_log_odds": -0.6 if split != "in" else 0.2,
                    "arm_log_odds": (-0.6 if split != "in" else 0.2) + 0.5 + 0.2 * i,
                    "log_odds": {"sampler": interval(0.3, 0.1), "decider": interval(0.2 + 0.2 * i, 0.1)},
                }
                for i, arm in enumerate(arms)
            }
            for split in splits
        },
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    return folder, draw_figures(synthetic(), folder)


def test_every_figure_is_written_in_both_formats(drawn):
    folder, files = drawn
    assert files == [folder / f"{name}.{suffix}" for name in NAMES for suffix in ("png", "svg")]
    for file in files:
        head = file.read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if file.suffix == ".png" else head.startswith(b"<?xml")


def test_bytes_repeat_whatever_the_users_settings(drawn, tmp_path):
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.hashsalt": "other"}):
        again = draw_figures(json.loads(json.dumps(synthetic())), tmp_path)
        assert mpl.rcParams["font.size"] == 20
    for first, second in zip(drawn[1], again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_values_that_are_not_defined_are_named_and_do_not_fail(tmp_path):
    results = synthetic(arms=("rloo",), splits=("in",))
    nothing = {"value": None, "low": None, "high": None}
    results["lengths"][0]["share"] = 0.0
    for row in results["curves"]["rloo"]["evaluation"]:
        row["auroc"] = None
    results["curves"]["rloo"]["gradient"] = []
    results["evaluation"]["in"]["rloo"]["b"] = nothing
    results["swap"]["in"]["base"]["rloo"] = nothing
    results["accounting"]["in"]["rloo"]["arm_log_odds"] = None
    files = draw_figures(results, tmp_path)
    assert all(file.stat().st_size > 0 for file in files)
    assert "not defined" in (tmp_path / "F7_log_odds.svg").read_text()
