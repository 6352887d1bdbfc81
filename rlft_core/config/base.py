"""What every configuration class shares: strict, frozen, documented by the docstring under each field.

Imports no torch, so that `rlft check` and `rlft --help` answer at once.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A configuration section. Unknown keys are errors, values never change after parsing."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )
