"""Judges that a recipe names, looked at before anything starts: templates, principles, labels, keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rlft_core.config.judge import JudgeConfig, JudgingConfig
from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import SftStage
from rlft_core.errors import ConfigError
from rlft_core.judging.chat import Messages
from rlft_core.judging.template import JudgeTemplate, load_template
from rlft_core.models.default_model import resolve_model
from rlft_core.plan.data import naming

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_judges(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None, base_dir: Path) -> list[str]:
    """Every judgement token is one token of the model's tokenizer, where there is one here; templates have the form that is asked
    for; keys are there. Returns warnings. Raises JudgeError or ConfigError naming the stage.
    """
    warnings = []
    for stage in recipe.stages:
        if isinstance(stage, SftStage) and stage.judge is not None:
            with naming(f"stages.{stage.name}.judge.template"):
                template = load_template(stage.judge.template, base_dir=base_dir).comparing()
                if tokenizer is not None:
                    template.label_ids(tokenizer)
        if isinstance(stage, OnlineStage):
            _check_stage(recipe, stage, tokenizer, base_dir)
            warnings += [told for judge in stage.judges for told in _asked_otherwise(recipe, stage, judge)]
    return warnings


def _asked_otherwise(recipe: Recipe, stage: OnlineStage, judge: JudgeConfig) -> list[str]:
    """A judge that learned to judge by another template."""
    source = recipe.judge_source(stage, judge)
    taught = recipe.taught_to_judge(source) if source is not None else None
    if taught is None or taught.template == judge.template:
        return []
    return [
        f"stages.{stage.name}.rewards, {judge.label}: asks by the template {judge.template}, and its model learns to judge by "
        f"{taught.template}; let both have one template"
    ]


def _check_stage(recipe: Recipe, stage: OnlineStage, tokenizer: PreTrainedTokenizerBase | None, base_dir: Path) -> None:
    for judge in stage.judges:
        with naming(f"stages.{stage.name}.rewards, {judge.label}"):
            template = load_template(judge.template, base_dir=base_dir)
            _check_form(template, judge)
            if tokenizer is None:
                continue
            if recipe.judge_source(stage, judge) is None:  # with a tokenizer of its own, looked at when it starts
                resolve_model(judge.model)
            else:
                template.label_ids(tokenizer)
    for service in stage.api_judges:
        with naming(f"stages.{stage.name}.rewards, {service.label}"):
            template = load_template(service.template, base_dir=base_dir)
            _check_form(template, service)
            Messages().labels(template)
            if service.key_env is not None and not os.environ.get(service.key_env):
                raise ConfigError(f"key_env: the environment has no {service.key_env}; set it to the service's key")


def _check_form(template: JudgeTemplate, judge: JudgingConfig) -> None:
    template.chosen(judge.principles)
    if template.grades and judge.against != "group":
        raise ConfigError(
            f"template '{template.name}' grades each answer by itself, so it is held against nothing; leave out `against`, or "
            "take a template that compares"
        )
