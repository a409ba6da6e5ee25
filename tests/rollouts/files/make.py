"""Makes the sample files of the frameworks: six answers to two prompts, the same in each.

TRL's, verl's and tunix' own code writes theirs (trl 1.16, verl 0.9.1, google-tunix 0.1.7 installed); those of NeMo-RL
and open-instruct have the fields that `log_batched_dict_as_jsonl` and `_save_rollouts` write.

    python tests/rollouts/files/make.py
"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
END = "<|im_end|>"
PROMPTS = ("What is 17 + 25?", "What is 9 + 8?")
ANSWERS = (  # prompt, text, correct, cut off by the limit
    (0, "17 + 25 = 42.", 1.0, False),
    (0, "It is 32. Wait, 7 + 5 = 12, so it is 42.", 1.0, False),
    (0, "It is 41. Hmm, it is 32.", 0.0, False),
    (1, "9 + 8 = 16. Wait, let me check: it is 17.", 1.0, False),
    (1, "It is 18.", 0.0, False),
    (1, "9 + 8 = 16. Alternatively, 9 + 8 = 1 + 8 + 8 = 1 + 16 =", 0.0, True),
)
CORRECT = np.array([correct for *_, correct, _ in ANSWERS])


def tokenizer() -> Any:
    """Bytes and the words above."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    out: Any = Tokenizer(models.BPE())
    out.pre_tokenizer, out.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    out.train_from_iterator([*PROMPTS, *(text for _, text, *_ in ANSWERS)] * 2, trainer)
    out.add_special_tokens([AddedToken(END, special=True)])
    return out


def rows(tokens: Any) -> list[dict[str, Any]]:
    """Ids and log-probs of each answer."""
    rng = np.random.default_rng(0)
    end, out = tokens.token_to_id(END), []
    for i, (prompt, text, correct, cut) in enumerate(ANSWERS):
        ids = tokens.encode(text).ids + ([] if cut else [end])
        logp = (-rng.exponential(0.5, len(ids))).round(3)
        group = CORRECT[[p == prompt for p, *_ in ANSWERS]]
        advantage = (correct - group.mean()) / (group.std() + 1e-6)
        out.append(
            {
                "prompt": tokens.encode(PROMPTS[prompt]).ids,
                "ids": ids,
                "old": logp.tolist(),
                "mu": (logp - rng.exponential(0.01, len(ids))).round(3).tolist(),
                "reward": correct,
                "advantage": round(float(advantage), 4),
                "cut": cut,
                "group": prompt,
                "row": i,
            }
        )
    return out


def lines(name: str, records: list[dict[str, Any]]) -> None:
    (HERE / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def nemo_rl(found: list[dict[str, Any]]) -> None:
    width = max(len(row["prompt"] + row["ids"]) for row in found)
    records = []
    for row in found:
        before, n = len(row["prompt"]), len(row["ids"])
        behind = width - before - n

        def over(x: list[float], before: int = before, behind: int = behind) -> list[float]:
            return [0.0] * before + x + [0.0] * behind

        records.append(
            {
                "content": PROMPTS[row["group"]] + ANSWERS[row["row"]][1],
                "rewards": row["reward"],
                "input_lengths": before + n,
                "token_ids": row["prompt"] + row["ids"] + [0] * behind,
                "token_loss_mask": [0] * before + [1] * n + [0] * behind,
                "sample_loss_mask": 1.0,
                "advantages": [row["advantage"]] * width,
                "generation_logprobs": over(row["mu"]),
                "prev_logprobs": over(row["old"]),
                "idx": row["row"],
            }
        )
    lines("train_data_step3.jsonl", records)


def open_instruct(found: list[dict[str, Any]]) -> None:
    records = [
        {
            "step": step,
            "sample_idx": row["row"],
            "prompt_idx": row["group"],
            "prompt_tokens": row["prompt"],
            "response_tokens": row["ids"],
            "reward": 10 * row["reward"],
            "advantage": row["advantage"],
            "finish_reason": "length" if row["cut"] else "stop",
            "dataset": "sums",
            "ground_truth": None,
            "request_info": None,
            "logprobs": row["mu"],
        }
        for step in (1, 2)
        for row in found[: 6 if step == 2 else 3]
    ]
    lines("sums_rollouts_000000.jsonl", records)


def tunix(found: list[dict[str, Any]]) -> None:
    logger = import_module("tunix.utils.trajectory_logger")
    name = "trajectory_log_1790000000.csv"
    (HERE / name).unlink(missing_ok=True)
    for row in found:
        item = {
            "conversation_text": [
                {"role": "user", "content": PROMPTS[row["group"]]},
                {"role": "assistant", "content": ANSWERS[row["row"]][1]},
            ],
            "prompt_tokens": np.array(row["prompt"]),
            "conversation_tokens": np.array(row["ids"]),
            "conversation_masks": np.ones(len(row["ids"]), np.int64),
            "status": "MAX_CONTEXT_LIMIT_REACHED" if row["cut"] else "SUCCEEDED",
            "trajectory_reward": row["reward"],
            "env_time": 0.0,
            "reward_time": 0.0,
            "old_logprobs": np.array(row["mu"]),
            "policy_version": 7,
            "original_input": {"prompts": PROMPTS[row["group"]]},
            "group_id": row["group"],
        }
        logger.log_item(str(HERE), [item], "1790000000")


def trl(found: list[dict[str, Any]]) -> None:
    """Two steps of GRPO with a tiny model; the second one logs token ids."""
    transformers, library, datasets = map(import_module, ("transformers", "trl", "datasets"))
    token = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "tokenizer.json"), eos_token=END, pad_token=END
    )
    size = transformers.GPT2Config(vocab_size=len(token), n_positions=128, n_embd=8, n_layer=1, n_head=1)
    steps = []

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        chosen = [[row for row in found if PROMPTS[row["group"]] == prompt] for prompt in dict.fromkeys(prompts)]
        ours = [row for group in chosen for row in group]
        order = [ours.pop(next(i for i, row in enumerate(ours) if PROMPTS[row["group"]] == p)) for p in prompts]
        return {
            "prompt_ids": [row["prompt"] for row in order],
            "completion_ids": [row["ids"] for row in order],
            "logprobs": [row["mu"] for row in order],
        }

    def accuracy(completions: list[str], completion_ids: Any, log_extra: Any, **_: Any) -> list[float]:
        steps.append(len(steps))
        if len(steps) == 2:
            log_extra("completion_ids", completion_ids)
        known = {text: correct for _, text, correct, _ in ANSWERS}
        return [known[text] for text in completions]

    def brevity(completions: list[str], **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    with tempfile.TemporaryDirectory() as folder:
        settings = library.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=6,
            num_generations=3,
            max_steps=2,
            logging_steps=1,
            log_completions=True,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        )
        trainer = library.GRPOTrainer(
            model=transformers.GPT2LMHeadModel(size),
            reward_funcs=[accuracy, brevity],
            args=settings,
            train_dataset=datasets.Dataset.from_dict({"prompt": list(PROMPTS)}),
            processing_class=token,
            rollout_func=rollout,
        )
        trainer.train()
        for step in (1, 2):
            name = f"completions_{step:05d}.parquet"
            (HERE / name).write_bytes((Path(folder) / "completions" / name).read_bytes())


def verl(found: list[dict[str, Any]]) -> None:
    torch = import_module("torch")
    trainer = import_module("verl.trainer.ppo.ray_trainer").RayPPOTrainer
    data = import_module("verl").DataProto
    token = import_module("transformers").PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer.json"))
    width = max(len(row["ids"]) for row in found)
    end = token.convert_tokens_to_ids(END)

    def batch(name: str, width: int) -> Any:
        return torch.tensor([row[name] + [end] * (width - len(row[name])) for row in found])

    scores = torch.zeros(len(found), width)
    scores[:, -1] = torch.tensor([row["reward"] for row in found])
    proto = data.from_dict(
        {"prompts": batch("prompt", 12), "responses": batch("ids", width), "token_level_scores": scores},
        {"reward_model": [{"ground_truth": "42"}] * 3 + [{"ground_truth": "17"}] * 3},
    )
    own = SimpleNamespace(tokenizer=token)

    def dump(**named: Any) -> None:
        path = named.pop("dump_path")
        extra = named.pop("reward_extra_infos_dict")
        trainer._write_generations(*named.values(), extra, path, 3)

    own._dump_generations = dump
    trainer._log_rollout_data(own, proto, {"acc": CORRECT}, {}, str(HERE))


if __name__ == "__main__":
    made = tokenizer()
    made.save(str(HERE / "tokenizer.json"), pretty=False)
    (HERE / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}) + "\n")
    for write in (nemo_rl, open_instruct, tunix, verl, trl):
        write(rows(made))
