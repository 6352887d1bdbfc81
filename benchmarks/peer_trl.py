"""The peer's whole PPO step: TRL's PPOTrainer with the same four models, prompts and sizes.

Runs in an environment of its own and imports nothing of rlft. The policy and the value model are trained: float32
weights under bfloat16 autocast. The reference and the reward model are frozen and loaded in bfloat16, as on our side.
Prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true"}

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

MICRO_BATCH = 16


class StepTimes(TrainerCallback):
    """Seconds of every step, from the start of training."""

    def __init__(self) -> None:
        self._mark = 0.0
        self.seconds: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._mark)
        self._mark = now


def trainer(job: dict[str, Any], times: StepTimes, folder: Path) -> PPOTrainer:
    """TRL's trainer on the job's models and prompts."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    batch = job["prompts_per_step"] * job["samples_per_prompt"]
    micro = min(MICRO_BATCH, batch)
    policy = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    classifier = AutoModelForSequenceClassification.from_pretrained
    reward = classifier(job["reward_model"], num_labels=1, dtype=torch.bfloat16)
    value = classifier(job["reward_model"], num_labels=1, dtype=torch.float32)
    for model in (policy, reference, reward, value):
        model.config.pad_token_id = tokenizer.pad_token_id
    rows = Dataset.from_list([{"input_ids": ids} for ids in job["prompts"]])
    arguments = PPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        local_rollout_forward_batch_size=micro,
        num_ppo_epochs=1,
        num_mini_batches=1,
        total_episodes=len(job["prompts"]),
        response_length=job["max_new_tokens"],
        stop_token="eos",
        temperature=1.0,
        learning_rate=job["learning_rate"],
        kl_coef=0.05,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        seed=job["seed"],
    )
    return PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows.select(range(micro)),
        callbacks=[times],
    )


def main() -> None:
    """Read the job, train, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    job = json.loads(options.job.read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    times = StepTimes()
    trainer(job, times, options.out.parent / "trl").train()
    samples = job["prompts_per_step"] * job["samples_per_prompt"]
    step_s = sum(times.seconds) / len(times.seconds)
    result = {
        "step_s": step_s,
        "samples_per_s": samples / step_s,
        "steps_s": [round(seconds, 3) for seconds in times.seconds],
        "versions": {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }
    options.out.write_text(json.dumps(result))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
