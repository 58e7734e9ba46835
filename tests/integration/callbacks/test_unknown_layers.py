"""AdminInit in a Trainer with layers of no known family, which the computation shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from _helpers import unknown_layers
from _helpers.forked import together
from _helpers.plain_post_ln import D, Stack
from _helpers.small_lightning import omegas, trainer
from _helpers.unknown_layers import inputs, module
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from admin_init import (
    AdminInit,
    AdminInitError,
    NotPostLNError,
    ProfileError,
    find_sites,
    save_sites,
)


def shuffled() -> DataLoader[Any]:
    return DataLoader(inputs(), batch_size=4, shuffle=True)  # type: ignore[arg-type]


def fit(model: Any, loader: Any, *callbacks: Any, **options: Any) -> Any:
    torch.manual_seed(5)
    done = trainer(callbacks=list(callbacks), max_steps=3, **options)
    done.fit(model, loader)
    return done


def test_they_are_found_and_rescaled_before_the_first_step(lightning: ModuleType) -> None:
    model = module(lightning)
    torch.manual_seed(5)
    done = trainer(lightning, callbacks=[callback := AdminInit()], max_steps=3)
    done.fit(model, shuffled())
    assert callback.profile is not None
    found = [site.name for site in callback.profile.sites]
    assert found == [f"model.layers.{i}.dropout" for i in range(3)]
    assert [omega.mean().item() for omega in omegas(model)] == pytest.approx(
        [site.omega for site in callback.profile.sites], abs=0.05
    )
    grouped = {id(p) for group in done.optimizers[0].param_groups for p in group["params"]}
    named = [p for name, p in model.named_parameters() if name.endswith("omega")]
    assert {id(omega) for omega in named} <= grouped


def test_the_look_before_the_training_leaves_no_trace() -> None:
    looked, plain = module(), module()
    fit(looked, shuffled(), callback := AdminInit())
    assert callback.profile is not None
    fit(plain, shuffled(), AdminInit(profile=callback.profile))
    assert len(looked.seen) == len(plain.seen) == 3
    for ours, theirs in zip(looked.seen, plain.seen, strict=True):
        assert torch.equal(ours, theirs)
    for name, value in looked.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    bare = module()
    fit(bare, shuffled())
    assert torch.equal(bare.seen[0], looked.seen[0])


def test_an_example_input_is_taken_instead_of_a_batch() -> None:
    model = module()
    model.example_input_array = inputs()[:2]
    seen: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    fit(model, shuffled(), AdminInit())
    assert seen[0] == (2, 5, D)
    assert seen[1:] == [(4, 5, D)] * 4  # the profile, and three steps
    assert len(model.seen) == 3


class Counting(IterableDataset[Tensor]):
    """Counts the items that it gave, over all iterations."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.given < 12:
            self.given += 1
            yield torch.full((5, D), float(self.given))


def loaders() -> dict[str, Callable[[], Any]]:
    seeded = torch.Generator()
    return {
        "iterable": lambda: DataLoader(Counting(), batch_size=4),
        "generator": lambda: DataLoader(
            inputs(),  # type: ignore[arg-type]
            batch_size=4,
            shuffle=True,
            generator=seeded.manual_seed(3),
        ),
        "workers": lambda: DataLoader(inputs(), batch_size=4, num_workers=1),  # type: ignore[arg-type]
        "several": lambda: {"x": shuffled(), "y": DataLoader(Counting(), batch_size=4)},
    }


@pytest.mark.parametrize("kind", loaders())
def test_loaders_give_what_they_would_have_given(kind: str) -> None:
    models = []
    for callbacks in ([], [AdminInit()]):
        fit(model := module(), loaders()[kind](), *callbacks)
        models.append(model)
    plain, ours = models
    assert len(ours.seen) == 3
    for expected, found in zip(plain.seen, ours.seen, strict=True):
        assert torch.equal(expected, found)


def test_what_can_be_read_only_once_is_refused() -> None:
    once = (batch for batch in [inputs()[:4]] * 3)
    with pytest.raises(ProfileError, match=r"generator can be read only once.*example_input_array"):
        fit(module(), once, AdminInit())
    model = module()
    model.example_input_array = inputs()[:2]
    fit(model, (batch for batch in [inputs()[:4]] * 3), AdminInit())
    assert len(omegas(model)) == 3


def test_a_step_that_cannot_run_early_is_named() -> None:
    def training_step(self: Any, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.model(batch * self.scale).square().mean()
        return loss

    late = {
        "training_step": training_step,
        "on_train_start": lambda self: vars(self).update(scale=2),
    }
    reason = r"a pass before the training, which failed: AttributeError.*`forward=` or `sites=`"
    with pytest.raises(ProfileError, match=reason):
        fit(module(**late), shuffled(), AdminInit())
    fit(model := module(**late), shuffled(), AdminInit(forward=lambda net, x: net.model(x)))
    assert len(omegas(model)) == 3


def test_pre_ln_is_refused() -> None:
    class PreLN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm = nn.Linear(D, D), nn.LayerNorm(D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x + self.mix(self.norm(x))
            return y

    with pytest.raises(NotPostLNError, match=r"3 residual connections .* are Pre-LN"):
        fit(module(model=Stack(PreLN)), shuffled(), AdminInit())


def test_a_run_resumes_with_the_omegas_of_its_checkpoint() -> None:
    whole = module()
    torch.manual_seed(5)
    done = trainer(callbacks=[AdminInit()])
    loader = DataLoader(inputs(), batch_size=4)  # type: ignore[arg-type]
    done.fit(whole, loader)
    done.save_checkpoint("three.ckpt")
    expected = omegas(whole)
    resumed = module()
    calls: list[object] = []
    resumed.model.register_forward_pre_hook(lambda *_: calls.append(1))
    callback = AdminInit()
    again = trainer(callbacks=[callback], max_epochs=2)
    again.fit(resumed, loader, ckpt_path="three.ckpt")
    assert again.global_step == 6
    assert len(calls) == 4  # a look, before the checkpoint is loaded, but no profile
    assert callback.profile is not None
    for method in ("validate", "test", "predict"):
        model = module()
        getattr(trainer(callbacks=[AdminInit()]), method)(model, loader, ckpt_path="three.ckpt")
        for ours, theirs in zip(omegas(model), expected, strict=True):
            assert torch.equal(ours, theirs), method


def test_without_a_checkpoint_nothing_is_added_outside_of_fit() -> None:
    model = module()
    trainer(callbacks=[AdminInit()]).validate(model, shuffled(), verbose=False)
    assert not any(name.endswith("omega") for name in model.state_dict())


def test_a_file_of_sites_is_taken_as_it_is() -> None:
    model = module()
    save_sites(find_sites(model, inputs(), forward=lambda net, x: net.model(x))[:2], "sites.json")
    with pytest.raises(AdminInitError, match=r"no such file"):
        fit(module(), shuffled(), AdminInit(sites="other.json"))
    fit(model := module(), shuffled(), AdminInit(sites="sites.json"))
    assert len([name for name in model.state_dict() if name.endswith("omega")]) == 2


def test_patterns_exclude_connections() -> None:
    fit(model := module(), shuffled(), callback := AdminInit(exclude=["model.layers.1"]))
    assert callback.profile is not None
    assert [site.name for site in callback.profile.sites] == [
        "model.layers.0.dropout",
        "model.layers.2.dropout",
    ]
    assert len([name for name in model.state_dict() if name.endswith("omega")]) == 2


def test_two_processes_have_the_same_omegas_after_training() -> None:
    together(unknown_layers.train, ranks=2)
    ranks = [torch.load(f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    (first, omegas_0), (second, omegas_1) = ranks
    assert not torch.equal(first, second)
    assert len(omegas_0) == 3
    for left, right in zip(omegas_0, omegas_1, strict=True):
        assert torch.equal(left, right)
    assert all(omega.std() > 0 for omega in omegas_0[1:])
