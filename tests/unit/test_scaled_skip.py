import warnings

import pytest
import torch
from torch import nn

from admin_init.scaled_skip import ScaledSkip

D = 6


@pytest.fixture
def terms() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, D), torch.randn(2, 3, D), torch.randn(D)


def filled(skip: ScaledSkip, omega: torch.Tensor) -> ScaledSkip:
    skip.omega.data.copy_(omega)
    return skip


def test_it_computes_omega_x_plus_f(terms: tuple[torch.Tensor, ...]) -> None:
    x, f, omega = terms
    torch.testing.assert_close(filled(ScaledSkip(D), omega)(x, f), omega * x + f)


def test_omega_one_changes_no_bit(terms: tuple[torch.Tensor, ...]) -> None:
    x, f, _ = terms
    assert torch.equal(ScaledSkip(D)(x, f), x + f)


def test_the_argument_overrules_the_parameter(terms: tuple[torch.Tensor, ...]) -> None:
    x, f, omega = terms
    skip = filled(ScaledSkip(D), omega)
    torch.testing.assert_close(skip(x, f, omega=torch.tensor(3.0)), 3 * x + f)


def test_gradients_reach_omega_channel_by_channel(terms: tuple[torch.Tensor, ...]) -> None:
    x, f, omega = terms
    skip = filled(ScaledSkip(D), omega)
    skip(x, f).sum().backward()
    torch.testing.assert_close(skip.omega.grad, x.sum((0, 1)))


def test_omega_can_be_constant() -> None:
    assert ScaledSkip(D).omega.requires_grad
    assert not ScaledSkip(D, trainable=False).omega.requires_grad
    assert "trainable=False" in repr(ScaledSkip(D, trainable=False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_model_is_kept(dtype: torch.dtype) -> None:
    skip = filled(ScaledSkip(D, dtype=dtype), torch.full((D,), 2.0))
    x = torch.ones(2, D, dtype=dtype)
    assert skip(x, x).dtype is dtype


def test_built_on_the_meta_device_and_reset() -> None:
    skip = ScaledSkip(D, device="meta").to_empty(device="cpu")
    skip.omega.data.fill_(-7.0)
    skip.reset_parameters()
    assert torch.equal(skip.omega, torch.ones(D))


def test_round_trip_of_the_state_dict() -> None:
    source = filled(ScaledSkip(D), torch.arange(D).float())
    target = ScaledSkip(D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.load_state_dict(source.state_dict())
    assert torch.equal(target.omega, source.omega)


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_without_omega_loads_as_one_with_a_warning(assign: bool) -> None:
    model = nn.ModuleDict({"skip": filled(ScaledSkip(D, trainable=False), torch.full((D,), 4.0))})
    checkpoint: dict[str, torch.Tensor] = {}
    with pytest.warns(UserWarning, match="no omega, so the shortcuts are scaled by 1"):
        model.load_state_dict(checkpoint, assign=assign)
    assert torch.equal(model.get_parameter("skip.omega"), torch.ones(D))
    assert not model.get_parameter("skip.omega").requires_grad
    assert checkpoint == {}


def test_a_checkpoint_without_omega_is_assigned_to_a_model_on_the_meta_device() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(D, D), "skip": ScaledSkip(D)}).to("meta")
    with pytest.warns(UserWarning, match="no omega"):
        model.load_state_dict(
            {f"linear.{k}": v for k, v in nn.Linear(D, D).state_dict().items()}, assign=True
        )
    assert torch.equal(model.get_parameter("skip.omega"), torch.ones(D))
