"""What predicts the return: a linear head solved in closed form, or a model of its own.

Both answer `values` for the samples of a step before they have seen them, and learn from them afterwards; the explained
variance that a run reports is therefore that of a prediction, never of a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlft_core.updates.collective import Collective

_MEMORY_OF_ERRORS = 0.7
"""The choice follows the last few batches: with more samples a weaker regularisation becomes the better one."""


class RidgeHead:
    """A linear value head by recursive regularised least squares.

    With features f_t (hidden state normalised to mean 0 and variance 1, and a constant) and returns R_t,

        A <- m A + sum_t f_t f_t^T        b <- m b + sum_t f_t R_t        w_k = (A + ridge_k I)^-1 b

    where m in (0, 1] is the memory and the constant is not regularised. Recursive least squares with forgetting:
    Haykin, Adaptive Filter Theory, ch. 13. How strong the regularisation must be depends on how many samples there were,
    so several strengths are kept, and the one in use is that which predicted the latest batches best, each predicted
    before it was learned from (prequential validation: Dawid 1984). Sums run over all ranks, so every rank holds the same
    head. float64 on the CPU.
    """

    def __init__(self, hidden_size: int, *, ridge: Sequence[float], memory: float) -> None:
        self._ridge = tuple(sorted(ridge))
        self._memory = memory
        width = hidden_size + 1
        self.covariance = torch.zeros(width, width, dtype=torch.float64)
        self.correlation = torch.zeros(width, dtype=torch.float64)
        self.weights = torch.zeros(len(self._ridge), width, dtype=torch.float64)
        self.errors = torch.zeros(len(self._ridge), dtype=torch.float64)

    @property
    def weight(self) -> Tensor:
        """[H + 1] the head in use, the constant last; of heads that predicted equally well the most cautious."""
        best = torch.nonzero(self.errors == self.errors.min())[-1]
        return self.weights[int(best)]

    def values(self, hidden: Tensor) -> Tensor:
        """[T, H] hidden states -> [T] float32 values."""
        return (_features(hidden) @ self.weight).float()

    def fit(self, hidden: Tensor, returns: Tensor, collective: Collective) -> None:
        """Learn from the [T] returns of this step."""
        features, target = _features(hidden), returns.double()
        errors = (features @ self.weights.T - target[:, None]).square().sum(0)
        self.errors = _MEMORY_OF_ERRORS * self.errors + collective.sum(errors)
        self.covariance = self._memory * self.covariance + collective.sum(features.T @ features)
        self.correlation = self._memory * self.correlation + collective.sum(features.T @ target)
        self.weights = torch.stack([self._solve(ridge) for ridge in self._ridge])

    def _solve(self, ridge: float) -> Tensor:
        penalty = torch.full((len(self.correlation),), ridge, dtype=torch.float64)
        penalty[-1] = 1e-6
        solution: Tensor = torch.linalg.solve(self.covariance + torch.diag(penalty), self.correlation)
        return solution

    def state(self) -> dict[str, Tensor]:
        """Everything that decides its future."""
        return {
            "covariance": self.covariance,
            "correlation": self.correlation,
            "weights": self.weights,
            "errors": self.errors,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.covariance, self.correlation = state["covariance"].clone(), state["correlation"].clone()
        self.weights, self.errors = state["weights"].clone(), state["errors"].clone()


def _features(hidden: Tensor) -> Tensor:
    normal = torch.nn.functional.layer_norm(hidden.detach().double().cpu(), hidden.shape[-1:])
    return torch.cat([normal, torch.ones(len(normal), 1, dtype=torch.float64)], dim=1)
