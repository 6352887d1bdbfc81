"""Everything that can be known of a run before a process starts: what is wrong, and what it will take.

Checks data, prompts, rewards, model and resources, and counts steps, samples, actors and memory. Starts nothing,
loads no weights, writes nothing; only `encode=True` waits for transformers, to measure prompts in tokens.
"""

from rlft_core.plan.make import make_plan
from rlft_core.plan.types import Actor, Available, Plan, PromptLengths, StagePlan

__all__ = ["Actor", "Available", "Plan", "PromptLengths", "StagePlan", "make_plan"]
