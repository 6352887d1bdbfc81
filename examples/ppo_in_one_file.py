"""PPO for language models in one file: everything the algorithm does, and nothing that makes it fast.

    for each step:
        generate    several answers to each of a few prompts, sampled from the policy
        score       each answer with a reward: here a rule that a few lines of Python can check
        update      make answers that were better than their siblings likelier, the others less likely

`update` is the part to read. rlft computes the same numbers (a test compares the weights after several steps), but with
engines that generate, learners that share the work, and rows that hold each prompt once.

    python examples/ppo_in_one_file.py --model FOLDER_OR_HUB_ID --steps 3

Needs torch and transformers only, and no GPU.

Shapes: N answers in groups of `samples_per_prompt`, one group after the other; L positions of the longest row.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

QUESTIONS = (
    "What is a compiler?",
    "What does a web browser do?",
    "What is the moon?",
    "Why do people sleep?",
    "What is a violin?",
    "What does a spreadsheet do?",
    "How is bread made?",
    "What is a glacier?",
)


@dataclass(frozen=True)
class Settings:
    """The numbers of the algorithm. `clip` and `kl_coefficient` are the two that keep the policy in one piece."""

    prompts_per_step: int = 4
    samples_per_prompt: int = 4
    max_new_tokens: int = 32
    epochs: int = 2  # optimiser steps on the same answers; from the second on the clip matters
    clip: float = 0.2  # a token's probability may move by this share before it earns nothing more
    kl_coefficient: float = 0.02  # price of one nat of distance from the model that we started from
    learning_rate: float = 2e-5
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One answer: token ids of its prompt, its own token ids (the end token included), and its reward."""

    prompt: list[int]
    completion: list[int]
    reward: float


# ---------------------------------------------------------------------------------------------- generate and score


def reward(text: str, *, ended: bool) -> float:
    """A rule: one sentence of at most ten words. Each of four checks gives a quarter, so progress shows."""
    words = text.split()
    checks = (
        ended,  # the model stopped by itself
        3 <= len(words) <= 10,
        text.rstrip().endswith("."),
        text.count(".") <= 1 and "\n" not in text.strip(),
    )
    return sum(checks) / len(checks)


@torch.no_grad()
def generate(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[str], settings: Settings
) -> list[Sample]:
    """Sample `samples_per_prompt` answers to each question and score them.

    Temperature 1 and no top-k or top-p: the policy gradient is only right for tokens that were drawn from the very
    distribution whose log-probabilities the update computes.
    """
    prompts = [encode(tokenizer, question) for question in questions]
    longest = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # Padding stands on the left, so that every answer starts in the same column.
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=settings.samples_per_prompt,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    output = policy.generate(ids.to(policy.device), attention_mask=mask.to(policy.device), generation_config=config)
    samples = []
    for row, new_tokens in enumerate(output[:, longest:].tolist()):
        ended = tokenizer.eos_token_id in new_tokens
        # The end token is part of the answer: when to stop is a choice of the policy like any other.
        completion = new_tokens[: new_tokens.index(tokenizer.eos_token_id) + 1] if ended else new_tokens
        text = tokenizer.decode(completion, skip_special_tokens=True)
        samples.append(Sample(prompts[row // settings.samples_per_prompt], completion, reward(text, ended=ended)))
    return samples


def encode(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids of the prompt, in the model's chat format if it has one."""
    instruction = f"Answer in one sentence of at most ten words. {question}"
    if tokenizer.chat_template is None:
        return tokenizer(instruction)["input_ids"]
    chat = [{"role": "user", "content": instruction}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ------------------------------------------------------------------------------------------------------- the update


def update(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    samples: list[Sample],
    settings: Settings,
) -> dict[str, float]:
    """One step of PPO. Changes `policy`; returns what a person wants to watch.

    1. Log-probabilities of every answer's tokens, before anything moves: under the policy (`old`) and the reference.
    2. The score of an answer is its reward minus the price of its distance from the reference,
           score = reward - kl_coefficient * sum over tokens of (old - reference),
       whose expectation is the KL divergence of policy and reference.
    3. The advantage of an answer is its score minus the mean score of its siblings: answers to the same prompt, the
       only fair comparison when some prompts are easier than others.
    4. A few optimiser steps on the clipped objective. With ratio = new probability / old probability of a token,
           objective = min(ratio * advantage, clip(ratio, 1 - clip, 1 + clip) * advantage)
       A token that became likelier (or less likely) by more than the clip, in the direction its advantage asked for,
       has nothing more to gain: its gradient is 0. A step in the wrong direction is always worth undoing.
    """
    batch = to_batch(samples, device=policy.device)
    with torch.no_grad():
        old = token_logprobs(policy, batch)
        ref = token_logprobs(reference, batch)

    kl = ((old - ref) * batch.is_answer).sum(dim=1)  # [N] nats
    rewards = torch.tensor([sample.reward for sample in samples], device=kl.device)
    advantages = leave_one_out(rewards - settings.kl_coefficient * kl, settings.samples_per_prompt)
    # One scale for the whole batch makes the learning rate mean the same whatever the reward's unit is.
    advantages = advantages / (advantages.var() + 1e-8).sqrt()

    num_tokens = batch.is_answer.sum()
    clipped_tokens = torch.zeros_like(num_tokens)
    for _ in range(settings.epochs):
        new = token_logprobs(policy, batch)
        loss, clipped = clipped_loss(new, old, advantages[:, None], batch.is_answer, clip=settings.clip)
        clipped_tokens += clipped
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return {
        "reward": float(rewards.mean()),
        "kl": float(kl.mean()),
        "tokens": float(num_tokens) / len(samples),
        "clipped": float(clipped_tokens) / (settings.epochs * float(num_tokens)),
    }


def clipped_loss(
    new: Tensor, old: Tensor, advantages: Tensor, is_answer: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """Minus the mean of the clipped objective over all answer tokens, and how many tokens were clipped.

    The mean is over tokens, not over answers first: every token counts the same, in a long answer as in a short one.
    """
    # Outside the answers there is no ratio. Replacing it before `exp` keeps what stands there out of the gradient.
    ratio = torch.where(is_answer, new - old, 0.0).exp()
    plain = ratio * advantages
    limited = ratio.clamp(1.0 - clip, 1.0 + clip) * advantages
    objective = torch.minimum(plain, limited)
    loss = -(objective * is_answer).sum() / is_answer.sum()
    return loss, ((limited < plain) & is_answer).sum()


def leave_one_out(scores: Tensor, group_size: int) -> Tensor:
    """[N] scores -> [N] advantages: each score minus the mean of the others in its group (RLOO).

    Leaving the answer itself out keeps its baseline independent of what it did, so the gradient stays unbiased.
    """
    groups = scores.reshape(-1, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).reshape(-1)


# --------------------------------------------------------------------------------------------------- log-probabilities


@dataclass(frozen=True)
class TokenBatch:
    """Rows `[prompt, answer, padding]`: `ids`, `attention` [N, L]; `is_answer` [N, L - 1].

    Position t predicts token t + 1, so whatever is about predictions has L - 1 columns.
    """

    ids: Tensor
    attention: Tensor
    is_answer: Tensor


def to_batch(samples: list[Sample], *, device: torch.device) -> TokenBatch:
    """Put samples into rows of one length."""
    longest = max(len(sample.prompt) + len(sample.completion) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    is_answer = torch.zeros(len(samples), longest - 1, dtype=torch.bool)
    for row, sample in enumerate(samples):
        end = len(sample.prompt) + len(sample.completion)
        ids[row, :end] = torch.tensor(sample.prompt + sample.completion)
        attention[row, :end] = 1
        is_answer[row, len(sample.prompt) - 1 : end - 1] = True
    return TokenBatch(ids.to(device), attention.to(device), is_answer.to(device))


def token_logprobs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """[N, L - 1]: log-probability that the model gives to each next token of the row."""
    logits = model(input_ids=batch.ids, attention_mask=batch.attention).logits[:, :-1].float()
    return logits.log_softmax(dim=-1).gather(-1, batch.ids[:, 1:, None]).squeeze(-1)


# ------------------------------------------------------------------------------------------------------------ the loop


def main() -> None:
    """Load a model, run the steps, print one line for each."""
    parser = argparse.ArgumentParser(description="PPO for language models in one file.")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or hub id of a causal language model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    settings = Settings()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    # Evaluation mode throughout: dropout would make the log-probabilities differ from those that were sampled from.
    policy = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, use_safetensors=True).eval()
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(arguments.steps):
        first = step * settings.prompts_per_step
        questions = [QUESTIONS[(first + i) % len(QUESTIONS)] for i in range(settings.prompts_per_step)]
        samples = generate(policy, tokenizer, questions, settings)
        metrics = update(policy, reference, optimizer, samples, settings)
        print(f"step {step:3d}  " + "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()), flush=True)
    example = max(samples, key=lambda sample: sample.reward)
    print(f"an answer of the last step: {tokenizer.decode(example.completion, skip_special_tokens=True)!r}")


if __name__ == "__main__":
    main()
