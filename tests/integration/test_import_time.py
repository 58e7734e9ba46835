"""What is loaded when: heavy libraries come late."""

import pytest
from _helpers import fresh


def heavy_after(code: str) -> set[str]:
    """Return the heavy libraries that a process with torch alone has loaded after ``code``."""
    heavy = "pytorch_lightning lightning fairseq transformers matplotlib tensorboard sacrebleu"
    report = f"print(*[name for name in {heavy.split()} if name in sys.modules])"
    ended = fresh.run(f"{code}\n{report}")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import admin_init",
        "import admin_init; admin_init.profile, admin_init.apply_, admin_init.AdminProfile",
        "import admin_init, torch; admin_init.find_sites(torch.nn.Transformer(16, 4, 1, 1, 16))",
        "import admin_init.measures.figures",
    ],
)
def test_the_core_loads_no_heavy_library(code: str) -> None:
    assert heavy_after(code) == set()


def test_a_model_of_transformers_loads_no_other() -> None:
    # The computation shows the sites, so that no class of layers has to be known.
    code = (
        "import admin_init, torch, transformers; "
        "config = transformers.BertConfig(vocab_size=9, hidden_size=24, num_hidden_layers=1); "
        "model = transformers.BertModel(config); "
        "batch = torch.ones(2, 3, dtype=torch.int64); "
        "assert len(admin_init.find_sites(model, batch)) == 2; "
        "assert not [name for name in sys.modules if name.endswith('modeling_bart')]"
    )
    assert "transformers" in heavy_after(code)


def test_the_callback_loads_lightning_when_it_is_asked_for() -> None:
    # So that the test above can fail.
    assert "pytorch_lightning" in heavy_after("import admin_init; admin_init.AdminInit")
