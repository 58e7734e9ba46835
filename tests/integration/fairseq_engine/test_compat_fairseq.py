"""Importing fairseq on this Python, and what that leaves behind."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers import fresh

import admin_init.fairseq

from fairseq import checkpoint_utils  # isort: skip
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase  # isort: skip


IMPORT = """
import dataclasses, logging, multiprocessing, os, random, sys, warnings
import numpy, torch

def state():
    root = logging.getLogger()
    return {
        "dataclass": dataclasses.dataclass,
        "root logger": (root.handlers[:], root.level, root.manager.disable),
        "warnings": (warnings.filters[:], warnings.showwarning),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "random": (random.getstate(), str(numpy.random.get_state()), str(torch.get_rng_state())),
        "process": (dict(os.environ), sys.path[:], sys.argv[:], sys.excepthook, os.getcwd()),
        "torch": (torch.load, torch.get_default_dtype(), torch.get_num_threads()),
    }

warnings.simplefilter("always")
logging.getLogger().addHandler(logging.NullHandler())
logging.getLogger().setLevel(logging.ERROR)
before = state()
import admin_init.fairseq
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
import fairseq.models.transformer
"""


def test_importing_leaves_the_process_as_it_was_and_says_nothing() -> None:
    run = fresh.run(IMPORT)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)


def test_a_failed_import_puts_everything_back_too() -> None:
    failing = IMPORT.replace(
        "import admin_init.fairseq\n",
        """
sys.modules["fairseq.models.roberta"] = None
try:
    import admin_init.fairseq
except ImportError:
    pass
else:
    raise AssertionError
""",
    ).replace("import fairseq.models.transformer\n", "")
    run = fresh.run(failing)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)


WITHOUT = """
import sys
class Finder:
    def find_spec(name, *_):
        if name == {0!r}:
            raise ModuleNotFoundError(f"No module named {0!r}", name={0!r})
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize(
    ("hide", "message"),
    [
        ("import sys; sys.modules['fairseq'] = None\n", "fairseq is not installed."),
        (WITHOUT.format("hydra"), "fairseq needs hydra, which is not installed."),
    ],
)
def test_what_is_missing_is_named_with_how_to_get_it(hide: str, message: str) -> None:
    run = fresh.run(f"{hide}import admin_init.fairseq")
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert f"FairseqNotInstalledError: {message} To get it: pip install " in last
    assert "pip install --no-deps fairseq==0.12.2" in last


def test_the_package_works_where_fairseq_is_missing() -> None:
    run = fresh.run(
        "import sys; sys.modules['fairseq'] = None; import torch, admin_init\n"
        "print(len(admin_init.find_sites(torch.nn.Transformer(16, 4, 1, 1, 16))))"
    )
    assert run.stdout == "5\n", run.stderr


TRAIN = """
import sys
import admin_init.fairseq
from fairseq_cli import preprocess, train

sizes = [
    f"--{stack}-{name}={value}"
    for stack in ("encoder", "decoder")
    for name, value in {
        "layers": 1, "embed-dim": 8, "ffn-embed-dim": 8, "attention-heads": 2
    }.items()
]
sys.argv = (
    "preprocess --source-lang de --target-lang en --trainpref text --validpref text --destdir bin"
).split()
preprocess.cli_main()
sys.argv = [
    *"train bin --arch transformer --optimizer adam --lr 0.1 --max-tokens 40 --cpu".split(),
    *"--max-update 2 --save-dir checkpoints --no-epoch-checkpoints --num-workers 0".split(),
    *sizes,
]
train.cli_main()
"""


def test_torch_loads_a_checkpoint_of_fairseq_train(tmp_path: Path) -> None:
    for language in ("de", "en"):
        (tmp_path / f"text.{language}").write_text("a b c d\nb c\na d c b a\n" * 4)
    run = fresh.run(TRAIN)
    assert run.returncode == 0, run.stderr
    path = tmp_path / "checkpoints" / "checkpoint_last.pt"

    checkpoint = torch.load(path)
    assert isinstance(checkpoint["cfg"]["model"], Namespace)
    [model], _ = checkpoint_utils.load_model_ensemble([str(path)])
    trained = {key: value for key, value in checkpoint["model"].items() if "decoder.layers" in key}
    assert len(trained) == 26
    assert all(torch.equal(model.state_dict()[key], value) for key, value in trained.items())

    unaware = fresh.run(f"import torch; torch.load({str(path)!r})")
    assert "Unsupported global: GLOBAL argparse.Namespace" in unaware.stderr


def test_torch_loads_numbers_of_numpy(tmp_path: Path) -> None:
    state = {"best": np.float64(2.5), "loss": np.float32(1.5), "updates": np.int64(3)}
    torch.save({"extra_state": state, "order": np.arange(4)}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt")
    assert loaded["extra_state"] == state
    assert loaded["order"].tolist() == [0, 1, 2, 3]


def test_fairseq_stays_out_of_its_fused_path() -> None:
    layer = TransformerEncoderLayerBase.__new__(TransformerEncoderLayerBase)
    layer.__dict__["can_use_fastpath"] = True
    layer.can_use_fastpath = True
    assert layer.can_use_fastpath is False


def test_importing_twice_is_importing_once() -> None:
    assert admin_init.fairseq.import_fairseq() is sys.modules["fairseq"]
