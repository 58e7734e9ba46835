from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from admin_init import AdminInitError
from admin_init._utils.checkpoints import read_checkpoint
from admin_init._utils.weight_averaging import (
    average_checkpoints,
    newest_checkpoints,
    write_average,
)
from admin_init.nn import TransformerConfig
from admin_init.translation.checkpoint import fold_checkpoint, load_module
from admin_init.translation.module import TranslationModule

CONFIG = TransformerConfig(
    vocabulary_size=40, dim=16, ffn_dim=32, heads=2, encoder_layers=2, decoder_layers=2,
    residual="admin",
)  # fmt: skip


def save(path: str, weights: dict[str, Tensor], step: int = 0, **more: Any) -> str:
    torch.save({"state_dict": weights, "epoch": step // 10, "global_step": step} | more, path)
    return path


def trained(seed: int) -> TranslationModule:
    """A module whose weights, omegas included, have moved."""
    torch.manual_seed(seed)
    model = TranslationModule(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_it_is_torchs_average_and_folds(tmp_path: Path) -> None:
    models = [trained(seed) for seed in range(3)]
    paths = [
        save(f"{i}.ckpt", model.state_dict(), hyper_parameters=dict(model.hparams))
        for i, model in enumerate(models)
    ]
    theirs = AveragedModel(models[0])
    for model in models:
        theirs.update_parameters(model)
    write_average(paths, "new/average.ckpt")
    ours = load_module(read_checkpoint("new/average.ckpt"))
    omegas = [name for name, _ in ours.named_parameters() if name.endswith(".omega")]
    assert len(omegas) == 10
    for name, weight in theirs.module.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, rtol=1e-6, atol=1e-7)
    moved = ours.get_parameter(omegas[-1])
    assert not torch.equal(moved, models[0].get_parameter(omegas[-1]))
    assert fold_checkpoint("new/average.ckpt", "folded.ckpt") < 1e-5


def test_types_are_kept_and_do_not_limit_the_sum() -> None:
    # Whose sum no float16 could hold.
    halves = [torch.tensor([60_000.0, 1.0], dtype=torch.float16), torch.full((2,), 60_000.0).half()]
    doubles = [torch.tensor(1.0).double(), torch.tensor(2.0).double()]
    paths = [
        save(f"{i}.ckpt", {"half": halves[i], "double": doubles[i]}) for i in range(len(halves))
    ]
    found = average_checkpoints(paths)["state_dict"]
    assert torch.equal(found["half"], torch.tensor([60_000.0, 30_000.5], dtype=torch.float16))
    assert torch.equal(found["double"], torch.tensor(1.5, dtype=torch.float64))


def test_what_is_no_floating_point_number_is_that_of_the_last() -> None:
    for i in range(3):
        save(f"{i}.ckpt", {"count": torch.tensor(7 * i), "mask": torch.tensor([True, i == 2])})
    found = average_checkpoints(["0.ckpt", "1.ckpt", "2.ckpt"])["state_dict"]
    assert torch.equal(found["count"], torch.tensor(14))
    assert torch.equal(found["mask"], torch.tensor([True, True]))


def test_what_else_is_in_a_checkpoint() -> None:
    kept: dict[str, Any] = {
        "hyper_parameters": {"transformer": {"dim": 16}},
        "datamodule_hyper_parameters": {"data": "data-bin"},
        "datamodule_hyper_name": "hparams",
        "pytorch-lightning_version": "2.6.0",
    }
    dropped = {"optimizer_states": [{}], "lr_schedulers": [{}], "callbacks": {"A": {}}, "loops": {}}
    one = torch.ones(1)
    paths = [save(f"{step}.ckpt", {"w": one}, step, **kept, **dropped) for step in (15, 20)]
    found = average_checkpoints(paths)
    assert found.pop("state_dict") == {"w": one}
    assert found == kept | {
        "epoch": 2,
        "global_step": 20,
        "averaged": [
            {"name": "15.ckpt", "epoch": 1, "global_step": 15},
            {"name": "20.ckpt", "epoch": 2, "global_step": 20},
        ],
    }


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": torch.ones(2)}, r"`b` has shape None in the former and \(3,\) in the latter"),
        (
            {"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)},
            r"`c` has shape \(1,\) in the former and None in",
        ),
        (
            {"a": torch.ones(2), "b": torch.ones(4)},
            r"`b` has shape \(4,\) in the former and \(3,\)",
        ),
    ],
)
def test_checkpoints_of_different_models(weights: dict[str, Tensor], message: str) -> None:
    first = save("first.ckpt", {"a": torch.ones(2), "b": torch.ones(3)})
    with pytest.raises(AdminInitError, match=r"other\.ckpt .* with first\.ckpt: " + message):
        average_checkpoints([first, first, save("other.ckpt", weights)])


def test_there_must_be_checkpoints() -> None:
    with pytest.raises(AdminInitError, match="at least one checkpoint"):
        average_checkpoints([])
    with pytest.raises(AdminInitError, match=r"no checkpoint at missing\.ckpt"):
        average_checkpoints(["missing.ckpt"])


def test_the_newest_are_found_by_what_they_say() -> None:
    # Neither by name nor by time.
    for name, step in (("a", 30), ("b", 9), ("z", 20), ("c", 100), ("d", 40)):
        save(f"{name}.ckpt", {"w": torch.ones(1)}, step)
    write_average(["c.ckpt"], "average.ckpt")
    save("last.ckpt", {"w": torch.ones(1)}, 100)
    Path("notes.txt").write_text("no checkpoint")

    def found(count: int) -> list[str]:
        return [path.name for path in newest_checkpoints(".", count)]

    assert found(1) == ["c.ckpt"]
    assert found(3) == ["a.ckpt", "d.ckpt", "c.ckpt"]
    assert found(10) == ["b.ckpt", "z.ckpt", "a.ckpt", "d.ckpt", "c.ckpt"]
    with pytest.raises(AdminInitError, match="must be at least 1, but is 0"):
        newest_checkpoints(".", 0)
    Path("empty").mkdir()
    with pytest.raises(AdminInitError, match="no checkpoint to average in empty"):
        newest_checkpoints("empty", 2)
