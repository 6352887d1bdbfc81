"""Users' own functions, named `module:attribute` in a recipe, and the reward that calls one. Imports no torch."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rlft_core.config.rewards import CustomConfig
from rlft_core.errors import ConfigError
from rlft_core.rewards.protocol import RewardValue, Sample


@dataclass(frozen=True, slots=True)
class CustomReward:
    """A user's function, called for each sample or once for all of them."""

    config: CustomConfig
    function: Callable[..., Any]

    @classmethod
    def from_config(cls, config: CustomConfig) -> CustomReward:
        """Import the function. ConfigError as in `load_function`."""
        return cls(config, load_function(config))

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> Sequence[RewardValue]:
        params = self.config.params
        if self.config.batched:
            # Whatever it is: `score_group` says so when it is not one number for each sample.
            result: Sequence[RewardValue] = self.function(tuple(samples), **params)
            return result
        return [self.function(sample, **params) for sample in samples]


def load_function(config: CustomConfig) -> Callable[..., Any]:
    """The reward's function. ConfigError as in `import_function`, naming the reward."""
    return import_function(
        config.function,
        where=f"reward '{config.label}': function '{config.function}'",
        arguments=("samples" if config.batched else "sample",),
        params=config.params,
    )


def import_function(
    reference: str, *, where: str, arguments: Sequence[str], params: Mapping[str, object]
) -> Callable[..., Any]:
    """Import `module:attribute` and check that it can be called as f(*arguments, **params).

    Args:
        reference: `module:attribute`.
        where: how messages begin: what wants the function, and its name.
        arguments: names of the positional arguments, for the message.
        params: the keyword arguments.

    Raises:
        ConfigError: no such module, the module fails while it is imported, no such attribute, not callable, a
            coroutine, or parameters that it does not take.
    """
    module_name, _, attribute = reference.partition(":")
    module = _import(module_name, where)
    try:
        found: Any = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"{where}: '{module_name}' has no '{attribute}'. It has: {', '.join(sorted(own)) or 'no functions'}."
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{where} is of type {type(found).__name__}, not a function. Name something that can be called."
        )
    _check_signature(found, arguments, params, where)
    function: Callable[..., Any] = found
    return function


def _import(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigError(
                f"{where}: there is no module '{missing}'. Correct the name, or put the folder that holds it on "
                "PYTHONPATH."
            ) from error
        raise ConfigError(f"{where}: importing '{name}' needs the module '{missing}'. Install it.") from error
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(f"{where}: importing '{name}' raised {type(error).__name__}: {error}") from error


def _check_signature(
    function: Callable[..., Any], arguments: Sequence[str], params: Mapping[str, object], where: str
) -> None:
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where} is async. A plain function is needed: write `def`, not `async def`.")
    if inspect.isclass(function):
        raise ConfigError(f"{where} is a class. Name a function, or an instance that can be called.")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none; the first call will tell
        return
    try:
        signature.bind(*(object() for _ in arguments), **params)
    except TypeError as error:
        given = ", ".join([*arguments, *(f"{key}=..." for key in params)])
        raise ConfigError(f"{where} cannot be called as f({given}): {error}. Its signature is {signature}.") from error
