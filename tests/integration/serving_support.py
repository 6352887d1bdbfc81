"""Run folders of tiny models, as runs leave them, without running anything; and a service on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rlft_core.checkpoints import folder as checkpoints
from rlft_core.checkpoints.adapter import adapter_of
from rlft_core.checkpoints.export import full_weights, write_model
from rlft_core.checkpoints.folder import write_manifest
from rlft_core.checkpoints.state import module_tensors
from rlft_core.config.load import parse_recipe
from rlft_core.config.model import FreezeConfig
from rlft_core.models.loading import load_tokenizer, trainable_policy
from rlft_core.models.policy import Policy
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.models.tiny import make_tiny_model

MAX_LENGTH = 256


def recipe_content(name: str) -> dict[str, Any]:
    """A recipe with a policy and a reward model."""
    return {
        "name": name,
        "model": {"name": "some/model", "dtype": "bfloat16", "max_length": MAX_LENGTH},
        "data": {
            "train": "rows.jsonl",
            "validation": 4,
            "max_prompt_tokens": 100,
            "prompt": {"system": "Be short.", "template": "Sum up: {input}"},
        },
        "stages": [
            {"type": "sft", "num_steps": 6, "learner": {"max_row_tokens": 512}},
            {
                "type": "reward_model",
                "num_steps": 2,
                "negatives": [{"kind": "shuffled"}],
                "learner": {"max_row_tokens": 512},
            },
        ],
    }


def make_run(runs_dir: Path, name: str, *, seed: int) -> Path:
    """A run whose stage `sft` is done, with a checkpoint of step 4 that was trained from the same start."""
    folder = runs_dir / name
    home = folder / "stages" / "sft"
    home.mkdir(parents=True)
    recipe = parse_recipe(recipe_content(name))
    (folder / "recipe.resolved.json").write_text(recipe.model_dump_json())
    model = make_tiny_model(home / "model", seed=seed, context=MAX_LENGTH, dtype=torch.bfloat16)
    other = make_tiny_model(
        runs_dir.parent / f"start-{name}", seed=seed + 100, context=MAX_LENGTH, dtype=torch.bfloat16
    )
    write_manifest(model)
    trained = {f"lm.{n}": t.float() for n, t in load_file(other / "model.safetensors").items() if "layers" in n}
    state = {"step": 4, "start": str(other)}
    checkpoints.save(home / "checkpoints", 4, tensors={"policy": trained}, state=state, keep=2)
    return folder


def make_adapter_run(runs_dir: Path, name: str, base: Path, *, seed: int, rank: int = 4) -> Path:
    """A run that trained an adapter for `base`, with a checkpoint of step 4 of another adapter: as learners leave them."""
    folder = runs_dir / name
    home = folder / "stages" / "sft"
    home.mkdir(parents=True)
    content = recipe_content(name)
    content["stages"] = content["stages"][:1]
    content["model"] |= {"name": str(base), "lora": {"rank": rank, "alpha": 2.0 * rank}}
    recipe = parse_recipe(content)
    assert recipe.model.lora is not None
    (folder / "recipe.resolved.json").write_text(recipe.model_dump_json())
    policy = trainable_policy(
        base, attention="dense", freeze=FreezeConfig(), lora=recipe.model.lora, gradient_checkpointing=False
    )
    _move(policy, seed=seed + 100)
    trained = module_tensors(policy)
    checkpoints.save(
        home / "checkpoints", 4, tensors={"policy": trained}, state={"step": 4, "start": str(base)}, keep=2
    )
    _move(policy, seed=seed)
    weights, tokenizer = full_weights(policy), load_tokenizer(base)
    write_model(home / "model", policy, weights, tokenizer, torch.bfloat16, adapter=adapter_of(policy))
    return folder


def _move(policy: Policy, *, seed: int) -> None:
    """Put random numbers into all that is trained, large enough to change greedy answers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def add_reward_model(folder: Path) -> Path:
    """A reward model as the run's stage `reward_model`."""
    home = folder / "stages" / "reward_model" / "model"
    source = folder / "stages" / "sft" / "model"
    classifier = load_classifier(source, attention="dense", seed=0)
    tokenizer = with_padding(load_tokenizer(source), classifier)
    classifier.save_pretrained(home)
    tokenizer.save_pretrained(home)
    RewardFacts(mean=0.5, std=2.0, template="Sum up: {input}", max_length=MAX_LENGTH).write(home)
    write_manifest(home)
    return home


def content_of(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())
