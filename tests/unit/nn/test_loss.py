"""Label-smoothed cross-entropy, held to torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admin_init.nn.loss import label_smoothed_cross_entropy

PAD = 1


def case(
    dtype: torch.dtype, tokens: int = 150, scale: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """States, an output projection, and targets of which some are padding."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(37, 16, generator=generator, dtype=torch.float64) * scale
    target = torch.randint(0, 37, (tokens,), generator=generator)
    target[3] = PAD
    return states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tokens", [1, 64, 150])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_loss_and_gradients_are_those_of_torch(smoothing: float, tokens: int, scale: float) -> None:
    torch_states, torch_weight, target = case(torch.float64, max(tokens, 4), scale)
    options = {"label_smoothing": smoothing, "ignore_index": PAD}
    expected = F.cross_entropy(torch_states @ torch_weight.T, target, **options)  # type: ignore[arg-type]
    (expected / 3).backward()
    states, weight, _ = case(torch.float64, max(tokens, 4), scale)
    found = label_smoothed_cross_entropy(states @ weight.T, target, **options)  # type: ignore[arg-type]
    # As with gradient accumulation, the loss is divided before its gradient is taken.
    (found / 3).backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states.grad, torch_states.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weight.grad, torch_weight.grad, rtol=1e-9, atol=1e-12)


def test_in_bfloat16_the_loss_is_computed_in_float32() -> None:
    states, weight, target = case(torch.bfloat16, scale=1.0)
    logits = states @ weight.T
    expected = F.cross_entropy(logits.detach().float(), target, label_smoothing=0.1)
    found = label_smoothed_cross_entropy(logits, target, label_smoothing=0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    found.backward()
    assert states.grad is not None
    assert states.grad.dtype == torch.bfloat16


def test_in_float16_small_gradients_are_scaled_before_they_are_rounded() -> None:
    """As a GradScaler scales them: the loss, by 2**16."""
    logits = torch.zeros(2000, 800, dtype=torch.float16).requires_grad_()
    target = torch.zeros(2000, dtype=torch.int64)
    loss = label_smoothed_cross_entropy(logits, target, label_smoothing=0.01)
    (loss * 2**16).backward()
    reference = torch.zeros(2000, 800).requires_grad_()
    (F.cross_entropy(reference, target, label_smoothing=0.01) * 2**16).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, reference.grad, check_dtype=False, rtol=1e-3, atol=0)


def test_without_gradients_the_logits_stay_as_they_are() -> None:
    states, weight, target = case(torch.float32)
    with torch.no_grad():
        logits = states @ weight.T
    before = logits.clone()
    found = label_smoothed_cross_entropy(logits, target, label_smoothing=0.1, ignore_index=PAD)
    expected = F.cross_entropy(before, target, label_smoothing=0.1, ignore_index=PAD)
    torch.testing.assert_close(found, expected)
    assert torch.equal(logits, before)


def test_no_second_tensor_of_their_size_is_made() -> None:
    states, weight, target = case(torch.float32)
    logits = states @ weight.T
    place = logits.data_ptr()
    found = label_smoothed_cross_entropy(logits, target)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.data_ptr() == place


def test_logits_that_are_needed_again_are_refused() -> None:
    logits = nn.Parameter(torch.randn(3, 5)).exp()  # the gradient of which needs its result
    found = label_smoothed_cross_entropy(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


def test_a_second_backward_is_refused() -> None:
    states, weight, target = case(torch.float32)
    found = label_smoothed_cross_entropy(states @ weight.T, target)
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="no second backward"):
        found.backward()


def test_second_derivatives_are_refused() -> None:
    states, weight, target = case(torch.float32)
    found = label_smoothed_cross_entropy(states @ weight.T, target)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(found, weight, create_graph=True)
