"""AdminInit leaves the positions of padding out of the variances."""

import pytest
import torch
from _helpers.small_lightning import data, module, trainer

from admin_init import AdminInit


def test_in_a_trainer() -> None:
    mask = torch.arange(5) >= torch.arange(8)[:, None] % 4 + 1
    admin = AdminInit(ignore_padding=lambda batch: mask[: len(batch[0])])
    trainer(max_steps=1, callbacks=[admin]).fit(module(), data())
    assert admin.profile is not None
    assert {site.elements for site in admin.profile.sites} == {(~mask).sum().item() * 16}
    (x,) = next(iter(data()))
    variance = x[~mask].var(correction=0).item()
    assert admin.profile.sites[0].shortcut_variance == pytest.approx(variance)
