"""The settings of the recipes are the published ones.

Sources: for IWSLT14 and WMT14, Transformer-Clinic's ``nmt-experiments/*.md`` and
``pre-process/*.sh``; for WMT17, whose preparation is not published, admin-torch's ``example/*.sh``.
"""

from typing import Any

import pytest
from _helpers.recipe_files import RECIPES, TASKS, parse

from admin_init.cli import main as cli

COMMON: dict[str, Any] = {
    "precision": "bf16-mixed",  # published: 16-mixed
    "gradient_clip_val": None,
    "label_smoothing": 0.1,
    "share_embeddings": "all",
    "shape": (512, 2048, 8),
    "layers": (6, 6),
    "dropouts": (0.1, 0.1, 0.1),  # the second is of attention, the third inside the feed-forward
    "optimizer": ("radam", (0.9, 0.98)),
    "schedule": ("inverse_sqrt", 1e-7),
    "weight_decay": 0.0,
}
WMT14_EN_DE = COMMON | {
    "lr": (1e-3, 8000),
    "tokens": (8192, 1, 4),  # of a batch, batches of an update, GPUs
    "epochs": 100,
    "search": (4, 0.6),
}
WMT14_EN_FR = COMMON | {
    "lr": (7e-4, 8000),
    "tokens": (8000, 10, 8),
    "epochs": 50,
    "search": (5, 0.8),
}
WMT17_EN_DE = COMMON | {
    "layers": (100, 100),
    "optimizer": ("adam", (0.9, 0.98)),
    "lr": (1e-3, 8000),
    "tokens": (4096, 1, 8),
    "epochs": 45,
    "search": (4, 0.6),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "iwslt14_de_en/fit": COMMON
    | {
        "shape": (512, 1024, 4),
        "dropouts": (0.3, 0.1, 0.1),
        "lr": (7e-4, 6000),
        "weight_decay": 1e-4,
        "tokens": (4096, 1, 1),
        "epochs": 90,
        "search": (5, 1.0),
    },
    "wmt14_en_de/fit": WMT14_EN_DE,
    "wmt14_en_de/12-12": WMT14_EN_DE | {"layers": (12, 12)},
    "wmt14_en_de/18-18": WMT14_EN_DE | {"layers": (18, 18)},
    "wmt14_en_de/100-100": WMT14_EN_DE | {"layers": (100, 100), "tokens": (4096, 1, 8)},
    "wmt14_en_fr/fit": WMT14_EN_FR,
    "wmt14_en_fr/60-12": WMT14_EN_FR | {"layers": (60, 12), "tokens": (5000, 16, 16)},
    "wmt17_en_de/fit": WMT17_EN_DE,
    "wmt17_en_de/huge": WMT17_EN_DE
    | {
        "lr": (1.5e-3, 4000),
        "tokens": (2048, 32, 8),
        "dropouts": (0.4, 0.0, 0.0),
        "weight_decay": 1e-4,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_hyper_parameters(name: str) -> None:
    base = f"{name.partition('/')[0]}/fit.yaml"
    settings = parse(*dict.fromkeys([base, f"{name}.yaml"]))
    trainer, model, data = settings["trainer"], settings["model"], settings["data"]
    shape, optimization = model["transformer"], model["optimization"]
    found = {
        "precision": trainer["precision"],
        "gradient_clip_val": trainer["gradient_clip_val"],
        "label_smoothing": model["label_smoothing"],
        "share_embeddings": shape["share_embeddings"],
        "shape": (shape["dim"], shape["ffn_dim"], shape["heads"]),
        "layers": (shape["encoder_layers"], shape["decoder_layers"]),
        "dropouts": tuple(shape[f"{of}dropout"] for of in ("", "attention_", "activation_")),
        "optimizer": (optimization["optimizer"], tuple(optimization["betas"])),
        "schedule": (optimization["schedule"], optimization["initial_learning_rate"]),
        "lr": (optimization["learning_rate"], optimization["warmup_steps"]),
        "weight_decay": optimization["weight_decay"],
        "tokens": (
            data["max_tokens"],
            trainer["accumulate_grad_batches"],
            trainer["devices"] * trainer["num_nodes"],
        ),
        "epochs": trainer["max_epochs"],
        "search": (model["search"]["beam_size"], model["search"]["length_penalty"]),
    }
    assert found == PUBLISHED[name]


MULTI30K = {"subwords": "sentencepiece", "vocabulary_size": 4000, "normalize": False}
CLEANED_BEFORE_BPE = {
    "subwords": "subword-nmt",
    "merges": 32_764,
    "normalize": True,
    "aggressive_hyphens": True,
    "lowercase": False,
    "length_unit": "word",
    "min_length": 1,
    "max_length": 80,
    "max_ratio": 9.0,  # which clean-corpus-n.perl takes where it is not told
    "valid_every": None,
}
PREPARED: dict[str, dict[str, Any]] = {
    "multi30k_en_de": MULTI30K,
    "multi30k_en_fr": MULTI30K,
    "iwslt14_de_en": CLEANED_BEFORE_BPE
    | {
        "merges": 10_000,
        "normalize": False,
        "aggressive_hyphens": False,
        "lowercase": True,
        "max_length": 175,
        "max_ratio": 1.5,
        "valid_every": 23,
    },
    "wmt14_en_de": CLEANED_BEFORE_BPE,
    "wmt14_en_fr": CLEANED_BEFORE_BPE
    | {
        "merges": 40_000,
        "length_unit": "subword",
        "max_length": 250,
        "max_ratio": 1.5,
        "valid_every": 1333,
    },
    "wmt17_en_de": CLEANED_BEFORE_BPE | {"merges": 32_000},
}


@pytest.mark.parametrize("task", TASKS)
def test_preparation(task: str) -> None:
    file = RECIPES / task / "prepare.yaml"
    settings = cli.command_parser("prepare").parse_args([f"--config={file}"])
    assert {key: settings[key] for key in PREPARED[task]} == PREPARED[task]
    # And the model reads what is prepared.
    data, corpus = parse(f"{task}/fit.yaml")["data"], settings.corpus
    assert settings.destination == data["data"]
    assert (corpus.source_lang, corpus.target_lang) == (data["source_lang"], data["target_lang"])
