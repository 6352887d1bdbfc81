"""Log-probs from hidden states: against loops, gradcheck, plain autograd, and a watch on the largest tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlft_core.logprobs import (
    BLOCK_BYTES,
    CPU_BLOCK_BYTES,
    TokenLogprobs,
    default_chunk_tokens,
    default_chunk_vocab,
    token_logprobs,
)

CHUNKS = [(None, None), (1, None), (3, 4), (None, 1), (2, 11), (100, 5)]


def inputs(tokens: int = 7, width: int = 5, vocab: int = 11, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens * 100 + vocab)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (tokens,), generator=generator)
    return [hidden.to(dtype), weight.to(dtype), bias.to(dtype), targets]


def loop(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, temperature: float
) -> list[tuple[float, float]]:
    results = []
    for h, target in zip(hidden.tolist(), targets.tolist(), strict=True):
        rows = zip(weight.tolist(), bias.tolist(), strict=True)
        logits = [(math.fsum(a * b for a, b in zip(h, w, strict=True)) + c) / temperature for w, c in rows]
        normaliser = math.log(math.fsum(math.exp(z) for z in logits))
        logs = [z - normaliser for z in logits]
        results.append((logs[target], -math.fsum(math.exp(z) * z for z in logs)))
    return results


def full(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float) -> TokenLogprobs:
    """The way that materialises the logits, for gradients."""
    logits = (torch.nn.functional.linear(hidden, weight, bias) / temperature).to(torch.float64)
    logs = logits.log_softmax(-1)
    return TokenLogprobs(logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def relative_error(actual: Tensor | None, expected: Tensor | None) -> float:
    assert actual is not None
    assert expected is not None
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def test_by_hand() -> None:
    # logits 0 and log 3: probabilities 1/4 and 3/4; at temperature 1/2 they become 1/10 and 9/10.
    hidden, weight = torch.tensor([[1.0]]).double(), torch.tensor([[0.0], [math.log(3.0)]]).double()
    result = token_logprobs(hidden, weight, torch.tensor([1]))
    assert float(result.logprobs) == pytest.approx(math.log(0.75), rel=1e-7)
    assert result.entropy is not None
    assert float(result.entropy) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-7)
    colder = token_logprobs(hidden, weight, torch.tensor([0]), temperature=0.5)
    assert float(colder.logprobs) == pytest.approx(math.log(0.1), rel=1e-7)


@pytest.mark.parametrize("chunk_tokens, chunk_vocab", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_equal_a_loop(chunk_tokens: int | None, chunk_vocab: int | None, temperature: float) -> None:
    hidden, weight, bias, targets = inputs()
    result = token_logprobs(
        hidden,
        weight,
        targets,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
        chunk_vocab=chunk_vocab,
        bias=bias,
    )
    expected = loop(hidden, weight, bias, targets, temperature)
    assert result.logprobs.tolist() == pytest.approx([logprob for logprob, _ in expected], rel=1e-12)
    assert result.entropy is not None
    assert result.entropy.tolist() == pytest.approx([entropy for _, entropy in expected], rel=1e-11)


@pytest.mark.parametrize("chunk_tokens, chunk_vocab", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_equal_those_of_full_logits(
    chunk_tokens: int | None, chunk_vocab: int | None, temperature: float
) -> None:
    hidden, weight, bias, targets = inputs()
    up, up_entropy = torch.linspace(-1, 2, 7).double(), torch.linspace(1, -0.5, 7).double()
    ours, theirs = leaves(hidden, weight, bias), leaves(hidden, weight, bias)
    result = token_logprobs(
        ours[0],
        ours[1],
        targets,
        temperature=temperature,
        chunk_tokens=chunk_tokens,
        chunk_vocab=chunk_vocab,
        bias=ours[2],
        entropy_grad=True,
    )
    expected = full(*theirs, targets, temperature)
    for one in (result, expected):
        assert one.entropy is not None
        (one.logprobs @ up + one.entropy @ up_entropy).backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_gradcheck(entropy_grad: bool) -> None:
    hidden, weight, bias, targets = inputs(4, 3, 6)

    def function(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        options = {"temperature": 1.3, "chunk_tokens": 3, "chunk_vocab": 4, "entropy_grad": entropy_grad}
        result = token_logprobs(h, w, targets, bias=b, **options)  # type: ignore[arg-type]
        assert result.entropy is not None
        return (result.logprobs, result.entropy) if entropy_grad else (result.logprobs,)

    assert torch.autograd.gradcheck(function, leaves(hidden, weight, bias))


def test_entropy_is_detached_unless_asked_for() -> None:
    hidden, weight, _, targets = inputs()
    hidden.requires_grad_()
    detached = token_logprobs(hidden, weight, targets).entropy
    attached = token_logprobs(hidden, weight, targets, entropy_grad=True).entropy
    assert detached is not None
    assert attached is not None
    assert not detached.requires_grad
    assert attached.requires_grad
    assert token_logprobs(hidden, weight, targets, with_entropy=False).entropy is None


def test_a_step_along_the_gradient_raises_the_target_and_the_entropy() -> None:
    hidden, weight, _, targets = inputs()
    for pick in ("logprobs", "entropy"):
        leaf = weight.clone().requires_grad_()
        before = getattr(token_logprobs(hidden, leaf, targets, entropy_grad=True), pick).sum()
        before.backward()
        assert leaf.grad is not None
        after = getattr(token_logprobs(hidden, weight + 1e-3 * leaf.grad, targets), pick).sum()
        assert after.item() > before.item()


def test_only_the_gradients_that_are_needed() -> None:
    hidden, weight, bias, targets = inputs()
    (hidden_only,) = leaves(hidden)
    token_logprobs(hidden_only, weight, targets, bias=bias).logprobs.sum().backward()
    (weight_only,) = leaves(weight)
    token_logprobs(hidden, weight_only, targets, bias=bias).logprobs.sum().backward()
    both = leaves(hidden, weight)
    token_logprobs(both[0], both[1], targets, bias=bias).logprobs.sum().backward()
    torch.testing.assert_close(hidden_only.grad, both[0].grad, rtol=0.0, atol=0.0)
    torch.testing.assert_close(weight_only.grad, both[1].grad, rtol=0.0, atol=0.0)
    assert weight.grad is None
    with torch.no_grad():
        assert not token_logprobs(both[0], both[1], targets).logprobs.requires_grad


def test_a_tied_embedding_gets_both_gradients() -> None:
    _, weight, _, targets = inputs()
    ours, theirs = leaves(weight, weight)
    token_logprobs(ours[targets].tanh(), ours, targets, chunk_vocab=4).logprobs.sum().backward()
    full(theirs[targets].tanh(), theirs, None, targets, 1.0).logprobs.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)


def eighths(*shape: int, seed: int) -> Tensor:
    """Multiples of 1/8: products of few of them are exact in float32, so only the rounding to bfloat16 is left."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).float() / 8


def test_autocast_rounds_the_products_and_nothing_else() -> None:
    hidden, weight = eighths(20, 16, seed=0).bfloat16(), eighths(50, 16, seed=1)  # float32 masters, bf16 activations
    targets = torch.arange(20)
    ours, theirs = leaves(hidden, weight), leaves(hidden, weight)
    up = torch.linspace(-1, 1, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = token_logprobs(ours[0], ours[1], targets, chunk_tokens=8, chunk_vocab=16)
        logits = torch.nn.functional.linear(theirs[0], theirs[1])
    assert logits.dtype == torch.bfloat16
    logs = logits.float().log_softmax(-1)
    expected = logs.gather(1, targets[:, None])[:, 0]
    assert result.logprobs.dtype == torch.float32
    torch.testing.assert_close(result.logprobs, expected, rtol=0.0, atol=2e-6)
    torch.testing.assert_close(result.entropy, -(logs.exp() * logs).sum(-1).detach(), rtol=0.0, atol=5e-6)
    (result.logprobs @ up).backward()  # outside autocast, as a training step does it
    (expected @ up).backward()
    assert ours[0].grad is not None
    assert ours[1].grad is not None
    assert (ours[0].grad.dtype, ours[1].grad.dtype) == (torch.bfloat16, torch.float32)
    for mine, reference in zip(ours, theirs, strict=True):
        assert relative_error(mine.grad, reference.grad) < 2**-8  # one rounding to bfloat16


def test_without_autocast_the_wider_dtype_is_used() -> None:
    hidden, weight, bias, targets = inputs(dtype=torch.float32)
    result = token_logprobs(hidden.bfloat16(), weight, targets, bias=bias)
    expected = loop(hidden.bfloat16(), weight, bias, targets, 1.0)
    assert result.logprobs.tolist() == pytest.approx([logprob for logprob, _ in expected], rel=1e-5)
    pure = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert pure.logprobs.dtype == torch.float32


def test_the_weight_gradient_is_summed_in_float32() -> None:
    # 4096 equal contributions of about 1/256: a bfloat16 sum would stop growing at 1.
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = token_logprobs(hidden, weight, torch.zeros(4096, dtype=torch.long), chunk_tokens=1, chunk_vocab=1)
    (result.logprobs.sum() / 128).backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([16.0, -16.0], rel=1e-6)


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1.0], [-1.0]])
    weight = torch.tensor([[1000.0], [0.0], [-1000.0]], requires_grad=True)
    result = token_logprobs(hidden, weight, torch.tensor([0, 0]), chunk_vocab=1, entropy_grad=True)
    assert result.logprobs.tolist() == [0.0, -2000.0]
    assert result.entropy is not None
    assert result.entropy.tolist() == [0.0, 0.0]
    (result.logprobs.sum() + result.entropy.sum()).backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [-1.0, 0.0, 1.0]


def test_entropy_is_never_negative() -> None:
    hidden, weight, _, targets = inputs(200, 8, 30, torch.float32)
    entropy = token_logprobs(hidden, 20 * weight, targets, chunk_vocab=7).entropy
    assert entropy is not None
    assert entropy.min().item() >= 0.0


def test_no_tokens() -> None:
    _, weight, _, _ = inputs()
    hidden = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    weight.requires_grad_()
    result = token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    result.logprobs.sum().backward()
    assert result.logprobs.shape == (0,)
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.num_elements = max(self.num_elements, value.numel())
        return result


def watch(function: Callable[[], TokenLogprobs]) -> tuple[int, int]:
    """Elements of the largest tensor made in the forward and in the backward pass."""
    with LargestTensor() as forward:
        result = function()
    with LargestTensor() as backward:
        assert result.entropy is not None
        (result.logprobs.sum() + result.entropy.sum()).backward()
    return forward.num_elements, backward.num_elements


@pytest.mark.parametrize("frozen", [False, True])
def test_full_logits_never_exist(frozen: bool) -> None:
    tokens, width, vocab = 64, 4, 500
    hidden, weight, _, targets = inputs(tokens, width, vocab, torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    seen = watch(lambda: full(hidden, weight, None, targets, 1.0))
    assert min(seen) >= tokens * vocab  # the watch sees them where they do exist
    forward, backward = watch(
        lambda: token_logprobs(hidden, weight, targets, chunk_tokens=8, chunk_vocab=25, entropy_grad=True)
    )
    # Views of the whole weight aside (vocab * width), nothing is larger than a block.
    largest = max(8 * 25, 25 * width, tokens * width, 20 * tokens)
    assert forward <= largest
    assert backward <= (largest if frozen else max(largest, vocab * width))


@pytest.mark.parametrize("vocab_size", [2, 4096, 49_152, 151_936, 262_144])
@pytest.mark.parametrize("device_type, limit", [("cpu", CPU_BLOCK_BYTES), ("cuda", BLOCK_BYTES)])
def test_the_defaults_bound_a_block(vocab_size: int, device_type: str, limit: int) -> None:
    rows, columns = default_chunk_tokens(vocab_size, device_type), default_chunk_vocab(vocab_size, device_type)
    assert limit / 2 < rows * columns * 4 <= limit
    assert limit <= 64 * 2**20
    assert columns <= vocab_size


def test_senseless_arguments_are_refused() -> None:
    hidden, weight, bias, targets = inputs()
    with pytest.raises(ValueError, match="outside the vocabulary of 11"):
        token_logprobs(hidden, weight, torch.full((7,), -100))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        token_logprobs(hidden, weight, torch.full((7,), 11))
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, weight, targets, temperature=0.0)
    with pytest.raises(ValueError, match=r"\[V, H\]"):
        token_logprobs(hidden, weight[:, 1:], targets)
    with pytest.raises(ValueError, match="7 token ids"):
        token_logprobs(hidden, weight, targets[1:])
    with pytest.raises(ValueError, match="bias"):
        token_logprobs(hidden, weight, targets, bias=bias[1:])
