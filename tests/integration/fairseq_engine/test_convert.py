"""Checkpoints that fairseq-train writes, and those that fairseq reads."""

import copy
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_cli import generate, preprocess, train
from torch import Tensor

import admin_init
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.errors import AdminInitError
from admin_init.fairseq import plugin  # noqa: F401, it registers `transformer_admin`
from admin_init.fairseq.convert import convert_checkpoint
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.checkpoint import load_module
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.search import beam_search

Change = Callable[[dict[str, Any]], Any]

SHAPE = [
    f"--{stack}-{name}={value}"
    for stack in ("encoder", "decoder")
    for name, value in {
        "layers": 2,
        "embed-dim": 16,
        "ffn-embed-dim": 32,
        "attention-heads": 2,
    }.items()
]


def run(command: Any, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fairseq", *arguments])
        command.cli_main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin of fairseq-preprocess and a checkpoint of fairseq-train."""
    folder = tmp_path_factory.mktemp("fairseq")
    splits = {str(k): v for k, v in embedded_corpus(train=200, valid=10, test=20).items()}
    for split, pairs in splits.items():
        for lang, side in (("en", "source"), ("de", "target")):
            text = "".join(f"{getattr(pair, side)}\n" for pair in pairs)
            (folder / f"{split}.{lang}").write_text(text)
    prefs = [f"--{split}pref={folder / split}" for split in splits]
    langs = ["--source-lang=en", "--target-lang=de", "--joined-dictionary"]
    run(preprocess, *prefs, *langs, f"--destdir={folder / 'data-bin'}")
    run(
        train,
        str(folder / "data-bin"),
        *(f"--save-dir={folder}", "--arch=transformer", *SHAPE, "--share-all-embeddings"),
        *("--max-tokens=400", "--max-update=20", "--optimizer=adam", "--lr=0.005", "--cpu"),
        *("--criterion=label_smoothed_cross_entropy", "--num-workers=0", "--no-progress-bar"),
        *("--no-epoch-checkpoints", "--no-save-optimizer-state"),
    )
    return folder


@pytest.fixture
def saved(folder: Path) -> dict[str, Any]:
    """What fairseq-train saved."""
    loaded: dict[str, Any] = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    return loaded


def sources(folder: Path) -> Tensor:
    data = TranslationDataModule(
        folder / "data-bin", "en", "de", max_tokens=10_000, left_pad_source=True
    )
    (batch,) = data.test_dataloader()
    return batch.source


def logits_of_fairseq(path: Path, source: Tensor) -> Tensor:
    """As fairseq loads and calls its own model."""
    (model,), _ = checkpoint_utils.load_model_ensemble([str(path)])
    with torch.no_grad():
        logits: Tensor = model.eval()(source, source.ne(1).sum(1), torch.full_like(source, 2))[0]
    return logits


@torch.no_grad()
def logits_of(path: str, source: Tensor) -> Tensor:
    module = load_module(read_checkpoint(path))
    assert isinstance(module.transformer, Transformer)
    logits: Tensor = module(source, torch.full_like(source, 2))
    return logits


def test_ours_computes_what_fairseq_trained(folder: Path) -> None:
    report = convert_checkpoint(folder / "checkpoint_last.pt", "ours.ckpt")
    assert report.startswith("a checkpoint of ours, logits differ by")
    source = sources(folder)
    expected = logits_of_fairseq(folder / "checkpoint_last.pt", source)
    torch.testing.assert_close(logits_of("ours.ckpt", source), expected, rtol=0, atol=1e-5)
    checkpoint = read_checkpoint("ours.ckpt")
    # fairseq-train was not told the languages either, but found them in the data.
    assert checkpoint["datamodule_hyper_parameters"] == {
        "data": str(folder / "data-bin"),
        "source_lang": "en",
        "target_lang": "de",
    }
    assert checkpoint["global_step"] == 20
    shape = checkpoint["hyper_parameters"]["transformer"]
    assert (shape["dim"], shape["residual"], shape["share_embeddings"]) == (16, "post", "all")


def changed(changes: dict[str, Any]) -> Change:
    return lambda saved: vars(saved["cfg"]["model"]).update(changes)


def drop(*names: str) -> Change:
    return lambda saved: [delattr(saved["cfg"]["model"], name) for name in names]


def as_args(saved: dict[str, Any]) -> None:
    cfg = saved.pop("cfg")
    saved["args"] = Namespace(**vars(cfg["model"]))


def as_mapping(saved: dict[str, Any]) -> None:
    saved["cfg"]["model"] = vars(saved["cfg"]["model"])


def of_2018(saved: dict[str, Any]) -> None:
    weights = saved["model"]
    del weights["decoder.output_projection.weight"]
    for name in list(weights):
        for i, norm in enumerate(("self_attn_layer_norm", "final_layer_norm")):
            if name.startswith("encoder.") and norm in name:
                weights[name.replace(norm, f"layer_norms.{i}")] = weights.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        of_2018,
        as_args,
        as_mapping,
        drop("activation_dropout", "max_source_positions", "no_cross_attention"),
        changed({"encoder_embed_path": "glove.txt", "encoder_layerdrop": 0.2}),
        lambda saved: saved.update(model={k: v.double() for k, v in saved["model"].items()}),
    ],
)
def test_checkpoints_of_other_versions_and_settings(
    saved: dict[str, Any], folder: Path, change: Change
) -> None:
    torch.save(saved, "as_saved.pt")
    change(saved)
    torch.save(saved, "changed.pt")
    convert_checkpoint("as_saved.pt", "expected.ckpt")
    convert_checkpoint("changed.pt", "ours.ckpt")
    source = sources(folder)
    assert torch.equal(logits_of("ours.ckpt", source), logits_of("expected.ckpt", source))


def test_dropouts_and_positions_are_taken_over(saved: dict[str, Any]) -> None:
    rates = {"dropout": 0.3, "attention_dropout": 0.2, "relu_dropout": 0.15}
    changed(rates | {"activation_dropout": 0.0, "max_target_positions": 100})(saved)
    torch.save(saved, "theirs.pt")
    convert_checkpoint("theirs.pt", "ours.ckpt")
    config = load_module(read_checkpoint("ours.ckpt")).config
    assert (config.dropout, config.attention_dropout) == (0.3, 0.2)
    assert config.activation_dropout == 0.15
    assert config.max_positions == 100


def grow(name: str) -> Change:
    def change(saved: dict[str, Any]) -> None:
        weight = saved["model"][name]
        saved["model"][name] = torch.cat([weight, weight[:8]])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed({"activation_fn": "gelu"}), "`activation_fn` is 'gelu', ours has 'relu'"),
        (changed({"layernorm_embedding": True}), "`layernorm_embedding` is True"),
        (changed({"cross_self_attention": True}), "`cross_self_attention` is True"),
        (changed({"adaptive_softmax_cutoff": "10,20"}), "`adaptive_softmax_cutoff` is '10,20'"),
        (changed({"no_scale_embedding": True}), "`no_scale_embedding` is True"),
        (changed({"quant_noise_pq": 0.1}), "`quant_noise_pq` is 0.1"),
        (changed({"decoder_learned_pos": True}), "`encoder_learned_pos` is False and `decoder_l"),
        (changed({"encoder_normalize_before": True}), "`decoder_normalize_before` is False"),
        # Pre-LN without its last norms, as no model of today's fairseq.
        (
            changed({"encoder_normalize_before": True, "decoder_normalize_before": True}),
            "This transformer is not fairseq's Transformer: .*encoder.layer_norm.weight",
        ),
        (grow("encoder.embed_tokens.weight"), "the vocabularies have .* ours has one size"),
        (
            lambda saved: saved["model"].pop("decoder.layers.1.fc1.bias"),
            "not fairseq's.*1.fc1.bias",
        ),
        (lambda saved: saved["model"].update(extra=torch.ones(1)), 'Unexpected key.*"extra"'),
        (lambda saved: saved.update(cfg=None), "has no options"),
    ],
)
def test_what_ours_does_not_have_is_named(
    saved: dict[str, Any], change: Change, message: str
) -> None:
    saved = copy.deepcopy(saved)
    change(saved)
    torch.save(saved, "theirs.pt")
    with pytest.raises(AdminInitError, match=message) as error:
        convert_checkpoint("theirs.pt", "ours.ckpt")
    assert "\n" not in str(error.value)
    assert not Path("ours.ckpt").exists()


def test_a_conversion_that_changes_the_outputs_is_not_written(saved: dict[str, Any]) -> None:
    saved["model"]["encoder.layers.0.fc1.bias"][:] = float("inf")
    torch.save(saved, "theirs.pt")
    with pytest.raises(AdminInitError, match="would change the logits by nan"):
        convert_checkpoint("theirs.pt", "ours.ckpt")
    assert not Path("ours.ckpt").exists()


def checkpoint(folder: Path, *, fairseq: bool = False, **changes: Any) -> TranslationModule:
    """Save ``model.ckpt``, a model of the folder's data whose weights look trained."""
    data = TranslationDataModule(folder / "data-bin", "en", "de")
    tiny = {"dim": 16, "ffn_dim": 32, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    torch.manual_seed(0)
    module = TranslationModule(
        TransformerConfig(vocabulary_size=data.vocabulary_size, **tiny | changes),
        fairseq=FairseqConfig() if fairseq else None,
    )
    if changes.get("residual") == "admin":
        admin_init.install_(module)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    torch.save(
        {
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            "datamodule_hyper_parameters": dict(data.hparams),
        },
        "model.ckpt",
    )
    return module.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"share_embeddings": "none", "positions": "learned"},
        {"residual": "pre", "share_embeddings": "target"},
        {"initialization": "torch", "branch_scale": 2.0},
        {"fairseq": True},
    ],
)
def test_fairseq_loads_and_generates_from_ours(
    folder: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module = checkpoint(folder, **changes)
    assert "fairseq's transformer, " in convert_checkpoint("model.ckpt", "theirs.pt")
    source = sources(folder)
    with torch.no_grad():
        expected = module(source, torch.full_like(source, 2))
    torch.testing.assert_close(
        logits_of_fairseq(Path("theirs.pt"), source), expected, rtol=0, atol=2e-5
    )

    capsys.readouterr()
    search = ["--beam=3", "--max-len-b=20", "--lenpen=0.6", "--gen-subset=test", "--cpu"]
    run(generate, str(folder / "data-bin"), "--path=theirs.pt", *search, "--num-workers=0")
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = {int(row[0][2:]): row[2].split() for row in printed if row[0].startswith("H-")}
    data = TranslationDataModule(
        folder / "data-bin", "en", "de", max_tokens=10_000, left_pad_source=True
    )
    (batch,) = data.test_dataloader()
    ours = module.transformer
    if not isinstance(ours, Transformer):
        hypotheses = ours.beam_search(batch.source, beam_size=3, max_len_b=20, length_penalty=0.6)
    else:
        hypotheses = beam_search(
            ours, batch.source, beam_size=3, max_len_b=20, length_penalty=0.6, forbidden=()
        )
    for index, (best, *_) in zip(batch.index.tolist(), hypotheses, strict=True):
        tokens = [data.target_dictionary[i] for i in best.tokens.tolist()[:-1]]
        assert found[index] == tokens
    assert len(found) == 20


def test_a_scaled_input_has_no_place_in_fairseq(folder: Path) -> None:
    checkpoint(folder, input_scale=3.0)
    with pytest.raises(AdminInitError, match=r"not have .*, but `input_scale` is 3\.0"):
        convert_checkpoint("model.ckpt", "theirs.pt")
    assert not Path("theirs.pt").exists()


@pytest.mark.parametrize("fairseq", [False, True])
def test_omegas_go_there_and_back(folder: Path, fairseq: bool) -> None:
    module = checkpoint(folder, residual="admin", fairseq=fairseq)
    assert "transformer_admin" in convert_checkpoint("model.ckpt", "theirs.pt")
    source = sources(folder)
    with torch.no_grad():
        expected = module(source, torch.full_like(source, 2))
    # As the plugin loads it, which is imported above.
    found = logits_of_fairseq(Path("theirs.pt"), source)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    theirs = torch.load("theirs.pt", weights_only=True)
    assert sum(name.endswith("_skip.omega") for name in theirs["model"]) == 10
    convert_checkpoint("theirs.pt", "back.ckpt")
    torch.testing.assert_close(logits_of("back.ckpt", source), expected, rtol=0, atol=2e-5)
    assert load_module(read_checkpoint("back.ckpt")).config.residual == "admin"
