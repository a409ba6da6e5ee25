"""Files that frameworks wrote, of the same six answers: each gives the same run, and its page leads to an answer."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsjax.cli.main import main
from dsjax.errors import InputError
from dsjax.rollouts import attribute_rollouts
from dsjax.rollouts.decisions import Rule, mark
from dsjax.rollouts.format import check
from dsjax.rollouts.frameworks import FRAMEWORKS, Reading, read
from dsjax.rollouts.frameworks.base import Rows
from tests.cli.test_bad_input import files, refused

pytest.importorskip("tokenizers")
pytest.importorskip("pyarrow")

from dsjax.rollouts.text import Tokens

FILES = Path(__file__).parent / "files"
PAGES = Path(__file__).parents[2] / "docs" / "frameworks"
TOKENS = Tokens(FILES)
TEXT = Reading(TOKENS, "<|im_end|>", 22)
SAMPLES = {
    "nemo-rl": ("train_data_step3.jsonl", {}),
    "open-instruct": ("sums_rollouts_000000.jsonl", {"step": 2}),
    "tunix": ("trajectory_log_1790000000.csv", {}),
    "trl": ("completions_00002.parquet", {}),
    "trl, text": ("completions_00001.parquet", {"reading": TEXT}),
    "verl": ("3.jsonl", {"reading": TEXT}),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the sample files."""
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The pages.


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_leads_from_a_run_to_an_answer(page, here, capsys):
    """Every block is run on the sample files; the first command's marks and the last one's signs are the known ones."""
    lines = []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
        if kind == "python":
            exec(compile(block, str(page), "exec"), {})
        else:
            for line in block.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "dsjax"
                assert main(arguments) == 0, capsys.readouterr().err
    assert 2 <= len(lines) <= 10
    out = capsys.readouterr().out
    assert out.count("RESAMPLE: 4 in 4 of 6 trajectories. STOP: 5. Cut off: 1.") == sum("decisions" in x for x in lines)
    assert "[ Wait, let me check]: it is 17." in out
    found = json.loads(next(here.glob("step*.json")).read_text())
    assert found["rollouts"]["groups"] == 2
    assert [found["decisions"][kind]["count"] for kind in ("STOP", "RESAMPLE")] == [5, 4]
    # Every advantage in a group of right and wrong answers has the sign of its outcome.
    assert found["outcome"]["all"]["agrees"]["value"] == 1.0
    told = {row["status"] for row in found["availability"] if "logit space" in row["quantity"]}
    assert told == ({"needs logp"} if page.stem in ("trl", "verl") else {"bound"})


def test_there_is_a_page_and_a_sample_for_each():
    assert {path.stem.replace("_", "-") for path in PAGES.glob("*.md")} == set(FRAMEWORKS)
    for name, (file, _) in SAMPLES.items():
        assert re.fullmatch(FRAMEWORKS[name.split(",")[0]].file, file)


# What is read.


def run(sample: str) -> dict[str, Any]:
    """Rows by their tokens, so that it does not matter where a file has them."""
    file, options = SAMPLES[sample]
    found = mark(read(FILES / file, **options).arrays, Rule(), TOKENS).arrays
    data = check({"logp": np.full(found["tokens"].shape, -1.0), **found})
    rows = {}
    for i, mask in enumerate(data.mask):
        assert data.tokens is not None
        assert data.reward is not None
        others = np.flatnonzero(data.group == data.group[i])
        rows[tuple(data.tokens[i, mask])] = (
            data.starts[i, mask].tolist(),
            data.ends[i, mask].tolist(),
            data.decision[i, data.starts[i]].tolist(),
            float(data.reward[i] / data.reward.max()),
            sorted(tuple(data.tokens[j, data.mask[j]]) for j in others),
            bool(data.truncated[i]),
        )
    assert len(rows) == 6
    return rows


@pytest.mark.parametrize("sample", list(SAMPLES)[1:])
def test_every_format_gives_the_same_run(sample):
    """Tokens, decisions, returns, groups and what was cut off; text comes back as the tokens that were drawn."""
    assert run(sample) == run("nemo-rl")


def test_log_probs_and_advantages_stand_at_their_tokens():
    """In the order of each file, against the lists as they are in it."""
    nemo, instruct, tunix, trl = (
        read(FILES / SAMPLES[name][0], **SAMPLES[name][1]).arrays for name in list(SAMPLES)[:4]
    )
    raw = [json.loads(line) for line in (FILES / "train_data_step3.jsonl").read_text().splitlines()]
    mask = nemo["sample_mask"]
    named = {"old_logp": "prev_logprobs", "sampler_logp": "generation_logprobs", "advantage": "advantages"}
    for ours, theirs in named.items():
        expected = [x for row in raw for x, m in zip(row[theirs], row["token_loss_mask"], strict=True) if m]
        np.testing.assert_array_equal(nemo[ours][mask], expected)
    np.testing.assert_array_equal(nemo["logp"], nemo["old_logp"])
    # The engine's log-probs are the same numbers in the other files.
    for arrays in (instruct, tunix):
        np.testing.assert_array_equal(arrays["logp"][arrays["sample_mask"]], nemo["sampler_logp"][mask])
    by_row = np.array([a[m][0] for a, m in zip(nemo["advantage"], mask, strict=True)])
    np.testing.assert_array_equal(instruct["advantage"], by_row)
    assert instruct["reward"].max() == 10
    # TRL's own, over n - 1: sqrt(2/3) of those over n, but for the small numbers added to both.
    np.testing.assert_allclose(sorted(trl["advantage"]), sorted(by_row * np.sqrt(2 / 3)), rtol=1e-3)


def test_what_was_taken_for_granted_is_said():
    found = read(FILES / "completions_00002.parquet", reading=Reading(rewards={"accuracy": 2.0}))
    assert "reward: 2 accuracy." in found.said
    assert sorted(found.arrays["reward"]) == [0, 0, 0, 2, 2, 2]
    said = " ".join(read(FILES / "completions_00001.parquet", reading=Reading(TOKENS)).said)
    assert said.startswith("Read as TRL by its fields step, prompt, completion, and its name: 6 rows, step 1.")
    assert "reward: accuracy + brevity (reward_weights are not in the file: --reward NAME=WEIGHT)." in said
    assert "was not put back" in said
    assert 'a reward function that calls log_extra("completion_ids", completion_ids) writes them' in said


def rows(sample: str, *changes: dict[str, Any]) -> Any:
    """A framework's reader on the first rows of its sample, changed."""
    framework = FRAMEWORKS[sample]
    path = FILES / SAMPLES[sample][0]
    raw = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    if raw is None:
        import csv

        with path.open(newline="") as file:
            raw = list(csv.DictReader(file))
    return framework.read(Rows(framework.title, [{**r, **c} for r, c in zip(raw, changes, strict=False)]), Reading())


def test_nemo_rl_without_the_trainers_log_probs_and_with_rows_that_do_not_count():
    zeros = {"prev_logprobs": [0.0] * 28}
    found = rows("nemo-rl", zeros, {**zeros, "sample_loss_mask": 0.0, "filtered_rewards": None})
    assert "old_logp" not in found.arrays
    np.testing.assert_array_equal(found.arrays["weight"], [1, 0])
    assert found.arrays["logp"][found.arrays["sample_mask"]].all()
    assert any("loss_fn.force_on_policy_ratio=false" in words for words in found.said)
    assert "logp" not in rows("nemo-rl", {**zeros, "generation_logprobs": [0.0] * 28}).arrays


def test_open_instruct_rows_that_called_tools_have_weight_0():
    found = rows("open-instruct", {}, {"request_info": {"tool_calleds": True}}, {"finish_reason": "length"})
    np.testing.assert_array_equal(found.arrays["weight"], [1, 0, 1])
    np.testing.assert_array_equal(found.arrays["truncated"], [False, False, True])
    assert "logp" not in rows("open-instruct", {"logprobs": None}).arrays


def test_tunix_without_log_probs_and_with_nan_in_the_text():
    none = {"old_logprobs": "None", "group_id": "None"}
    found = rows("tunix", none, none, none, none)
    assert "logp" not in found.arrays
    np.testing.assert_array_equal(found.arrays["group"], [0, 0, 0, 1])
    assert any("RolloutConfig(return_logprobs=True)" in words for words in found.said)
    text = str([float("nan"), -float("inf"), *[-0.5] * 5])
    logp = rows("tunix", {"old_logprobs": text, "conversation_masks": "[0, 0, 1, 1, 1, 1, 1]"}).arrays["logp"]
    np.testing.assert_array_equal(logp, [[np.nan, -np.inf, *[-0.5] * 5]])


def test_trl_conversations_tools_and_rewards_that_do_not_apply():
    messages = [
        {"role": "assistant", "content": "It is 4."},
        {"role": "tool", "content": "Wait 17"},
        {"role": "assistant", "content": " Hmm, 5."},
    ]
    prompt = [{"role": "user", "content": "What?"}]
    table = [
        {"step": 1, "prompt": prompt, "completion": messages, "good": 1.0, "form": None, "advantage": 0.5, "note": "a"},
        {"step": 1, "prompt": prompt, "completion": messages[:1], "good": 0.0, "form": float("nan"), "advantage": -0.5},
    ]
    found = FRAMEWORKS["trl"].read(Rows("TRL", table), TEXT).arrays
    assert found["tokens"][0].tolist() == TOKENS.encode(["It is 4. Hmm, 5.<|im_end|>"])[0]
    np.testing.assert_array_equal(found["group"], [0, 0])
    np.testing.assert_array_equal(found["reward"], [1.0, 0.0])


def test_attribute_reads_the_file_itself_and_says_what_is_missing(here, capsys):
    assert main(["attribute", "train_data_step3.jsonl", "--objective", "dapo", "--resamples", "5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Read as NeMo-RL by its fields token_ids, token_loss_mask, and its name: 6 rows." in out
    assert "No framework writes which tokens decide: dsjax decisions marks them." in out
    assert "No decision in the file" in out


# Without log-probs.


def test_without_log_probs_the_coefficients_are_those_at_ratio_1():
    """Of the same run with log-probs, on-policy; and only of losses that do not depend on them."""
    arrays = mark(read(FILES / "train_data_step3.jsonl").arrays, Rule(), TOKENS).arrays
    del arrays["old_logp"]
    mu = arrays.pop("sampler_logp")
    bare = {name: x for name, x in arrays.items() if name != "logp"}
    full, less = (attribute_rollouts("dapo", resamples=5, on_policy=True, **x) for x in (arrays, bare))
    np.testing.assert_allclose(less.coefficients, full.coefficients, rtol=1e-12)
    assert less.conventions["token"]["share"].value == pytest.approx(full.conventions["token"]["share"].value)
    plain, known = less.to_json(), full.to_json()
    assert plain["loss"] == known["loss"]
    assert plain["logit_space"]["share"]["upper"]["value"] is None
    assert plain["decisions"]["STOP"]["mean_probability"] is None
    assert "logp" not in plain["rollouts"]["arrays"]
    said = " ".join(plain["notes"])
    assert "No log-probs in the file" in said
    assert not re.search(r"probab\w+ of|log2|pi_old/mu|pi/pi_old", said)
    mismatched = attribute_rollouts("dapo", resamples=5, on_policy=True, sampler_logp=mu, **bare)
    assert not any("pi_old/mu" in words for words in mismatched.notes)
    with pytest.raises(InputError, match="logp: received 'no such array'"):
        attribute_rollouts("dapo", {"mismatch": "token_truncate"}, on_policy=True, sampler_logp=mu, **bare)
    json.dumps(plain, allow_nan=False)
    with pytest.raises(InputError, match=r"logp: received .*; allowed: the array logp: .* of dft depend"):
        attribute_rollouts("dft", on_policy=True, **bare)
    with pytest.raises(InputError, match=r"logp: received 'no such array'; allowed: .*--on-policy"):
        attribute_rollouts("dapo", **bare)


# Bad input.


class Trap:
    """A pickle that leaves a trace where it is opened."""

    def __reduce__(self):
        return Path("opened").touch, ()


@pytest.mark.parametrize("name", ["run.pkl", "run.pt", "run.jsonl", "run.csv", "run.parquet", "run.npz"])
@pytest.mark.parametrize("command", ["decisions", "attribute"])
def test_a_pickle_is_never_opened(command, name, here, capsys):
    (here / name).write_bytes(pickle.dumps([Trap()]))
    end = ["-o", "out.npz"] if command == "decisions" else []
    assert "rollouts file" in refused([command, name, *end], capsys)
    assert not (here / "opened").exists()
    assert not (here / "out.npz").exists()


LINE = {"input": "a", "output": "b", "score": 1.0, "step": 1}


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, "none.jsonl", ["rollouts file", "none.jsonl", "No such file"]),
        ("", "x.jsonl", ["rollouts file", "x.jsonl", "at least one row"]),
        ('{"input": 1}\n{"inp', "x.jsonl --format verl", ["x.jsonl, line 2", "JSON lines"]),
        ("[1]\n", "x.jsonl", ["x.jsonl, line 1", "an object"]),
        (
            '{"content": "a", "rewards": 1}\n',
            "x.jsonl",
            ["the fields content, rewards", "verl has input, output, score"],
        ),
        ([LINE], "x.jsonl", ["tokenizer", "None", "verl have text, no tokens"]),
        ([LINE], "x.jsonl --format sglang", ["format", "'sglang'", "npz, nemo-rl, open-instruct"]),
        ([LINE], "x.jsonl --format nemo-rl", ["token_ids", "nothing in row 1", "NeMo-RL"]),
        ([LINE], "x.jsonl --format npz", ["rollouts file", "an .npz file"]),
        ([LINE], "x.jsonl --tokenizer none", ["tokenizer", "none", "readable tokenizer.json"]),
        ([LINE], "x.jsonl --tokenizer .", ["max-tokens", "None", "data.max_response_length"]),
        ([LINE], "x.jsonl --tokenizer . --max-tokens 0", ["max-tokens", "0", "at least 1"]),
        ([LINE], "x.jsonl --tokenizer . --max-tokens 9 --end EOS", ["end", "'EOS'", "a token of"]),
        ([LINE], "x.jsonl --tokenizer . --max-tokens 9 --resample (", ["resample", "'('", "a regular expression"]),
        ([LINE], "x.jsonl --tokenizer . --step 2", ["step", "2", "allowed: 1"]),
        ([LINE], "x.jsonl --preview -1", ["preview", "-1", ">= 0"]),
        ([LINE], "x.jsonl --stop a --stop-ids 3", ["stop and stop-ids", "one of them"]),
        ([LINE], "x.jsonl --stop-ids end", ["stop-ids", "'end'", "token ids"]),
        ([LINE], "x.jsonl --resample-ids 3,x", ["resample-ids", "'x'", "token ids"]),
        ([LINE], "x.jsonl --reward a=b", ["reward", "'b'", "a finite number"]),
        ([LINE], "x.jsonl --out x.jsonl", ["out", "'x.jsonl'", "another file"]),
        ([LINE, {**LINE, "step": 2}], "x.jsonl", ["step", "none, of a file with 2", "1, 2 (--step)"]),
        ([LINE, {**LINE, "output": 7}], "x.jsonl --tokenizer .", ["output", "7 in row 2", "a text"]),
        ([{**LINE, "score": "good"}], "x.jsonl --tokenizer . --max-tokens 9", ["score", "'good' in row 1", "a number"]),
        (None, "train_data_step3.jsonl --step 3", ["step", "3", "NeMo-RL's rows have no step"]),
        (None, "sums_rollouts_000000.jsonl", ["step", "of a file with 2", "1, 2 (--step)"]),
        (None, "completions_00002.parquet --reward style=1", ["reward", "'style'", "accuracy, brevity"]),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(content, arguments, words, here, capsys):
    if content is not None:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (here / "x.jsonl").write_text(text)
    (here / "out.npz").write_bytes(b"what was there")
    before = files(here)
    end = [] if "--out" in arguments else ["-o", "out.npz"]
    error = refused(["decisions", *arguments.split(), *end], capsys)
    assert all(word in error for word in words), error
    assert files(here) == before


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("token_ids", [1, 2.5], r"token_ids: received '\[1, 2.5\] in row 2'; allowed: a list of token ids"),
        ("token_ids", [1, -1], "token_ids: .* a list of token ids"),
        ("token_ids", [1, 2**40], "token_ids: .* a list of token ids"),
        ("token_ids", "x", "token_ids: received .* in row 2"),
        ("token_loss_mask", [0, 1], "token_loss_mask: received '2 entries in row 2'; allowed: one for each of its 28"),
        ("token_loss_mask", [2] * 28, "token_loss_mask: .* a list of numbers 0 and 1"),
        ("prev_logprobs", ["a"] * 28, "prev_logprobs: .* a list of numbers"),
        ("rewards", None, "rewards: received 'nothing in row 2'; allowed: a field of every row of NeMo-RL"),
    ],
)
def test_a_field_of_a_row_is_named(field, value, words):
    with pytest.raises(InputError, match=words):
        rows("nemo-rl", {}, {field: value})


def test_parquet_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"rollouts file: .*pip install 'dsjax\[readers\]'"):
        read(FILES / "completions_00001.parquet")
