"""The recipes' files: how they are laid over each other, and what their READMEs show."""

from itertools import pairwise, product
from types import SimpleNamespace

import pytest
from _helpers.recipe_files import RECIPES, TASKS, Settings, commands, parse, run_folder
from pytorch_lightning.strategies import SingleDeviceStrategy

from admin_init.callbacks.initialization.checks import check_trainer

DEPTHS = {
    "wmt14_en_de": ["12-12.yaml", "18-18.yaml", "100-100.yaml"],
    "wmt14_en_fr": ["60-12.yaml"],
    "wmt17_en_de": ["huge.yaml"],
}


def overlays(task: str) -> list[list[str]]:
    """Every choice of depth, style and engine, as the files laid over ``fit.yaml``."""
    depths = ["", *(f"{task}/{name}" for name in DEPTHS.get(task, []))]
    combinations = product(depths, ["", "post.yaml", "pre.yaml"], ["", "fairseq.yaml"])
    return [[name for name in names if name] for names in combinations]


@pytest.mark.parametrize("task", TASKS)
def test_every_combination_is_a_run_of_its_own(task: str) -> None:
    folders = set()
    for names in overlays(task):
        settings = parse(f"{task}/fit.yaml", *names)
        folders.add(run_folder(settings))
        model = settings["model"]
        style = next((name[:-5] for name in names if name in ("post.yaml", "pre.yaml")), "admin")
        assert model["transformer"]["residual"] == style
        assert (model["fairseq"] is not None) == ("fairseq.yaml" in names)
        callbacks = [callback["class_path"] for callback in settings["trainer"]["callbacks"]]
        assert ("admin_init.callbacks.admin_init.AdminInit" in callbacks) == (style == "admin")
    assert len(folders) == len(overlays(task))


@pytest.mark.parametrize("task", TASKS)
def test_admin_init_serves_the_precision(task: str) -> None:
    """On a GPU, too, where Lightning takes it as it is written."""
    settings = parse(f"{task}/fit.yaml")
    strategy = SingleDeviceStrategy("cpu")
    precision = settings["trainer"]["precision"] or "32-true"
    check_trainer(SimpleNamespace(precision=precision, strategy=strategy), object())


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_the_layers_does_not_matter(task: str) -> None:
    names = overlays(task)[-1]
    assert parse(f"{task}/fit.yaml", *names) == parse(f"{task}/fit.yaml", *reversed(names))


@pytest.mark.parametrize("task", TASKS)
def test_styles_and_engines_change_nothing_else(task: str) -> None:
    def rest(settings: Settings) -> Settings:
        for key in ("save_dir", "version"):
            settings["trainer"]["logger"]["init_args"].pop(key)
        settings["trainer"]["callbacks"] = [
            callback
            for callback in settings["trainer"]["callbacks"]
            if not callback["class_path"].endswith("AdminInit")
        ]
        settings["model"]["transformer"].pop("residual")
        settings["model"].pop("fairseq")
        return settings

    base = rest(parse(f"{task}/fit.yaml"))
    for name in ("post.yaml", "pre.yaml", "fairseq.yaml"):
        assert rest(parse(f"{task}/fit.yaml", name)) == base


@pytest.mark.parametrize("task", TASKS)
def test_the_last_ten_epochs_are_averaged_and_validation_chooses(task: str) -> None:
    for names in ([], ["post.yaml"], ["pre.yaml"]):
        *_, best, last, average = parse(f"{task}/fit.yaml", *names)["trainer"]["callbacks"]
        assert best["class_path"].endswith("ModelCheckpoint")
        kept = {key: best["init_args"][key] for key in ("monitor", "mode", "filename")}
        assert kept == {"monitor": "val_nll", "mode": "min", "filename": "best"}
        # Not `save_last` of the best: that is only saved when the best is.
        assert last["class_path"].endswith("ModelCheckpoint")
        kept = {key: last["init_args"][key] for key in ("monitor", "filename")}
        assert kept == {"monitor": None, "filename": "last"}
        assert average["class_path"].endswith("AverageCheckpoints")
        assert average["init_args"] == {"last": 10, "monitor": "val_nll"}


@pytest.mark.parametrize("task", TASKS)
def test_what_a_readme_shows_is_read_and_fits_together(task: str) -> None:
    shown = commands(task)
    path = ["prepare", "fit", "test", "translate", "average"]
    assert [name for name, *_ in shown[: len(path)]] == path
    for arguments in shown:
        given = list(pairwise(arguments))
        files = [value.removeprefix("recipes/") for key, value in given if key == "--config"]
        assert all((RECIPES / file).exists() for file in files)
        if arguments[0] in ("fit", "test"):
            settings = parse(*files)
            assert (
                dict(given)
                .get("--ckpt_path", run_folder(settings))
                .startswith(run_folder(settings))
            )


@pytest.mark.parametrize("task", DEPTHS)
def test_every_depth_is_in_its_readme(task: str) -> None:
    text = (RECIPES / task / "README.md").read_text()
    others = {"fit.yaml", "prepare.yaml"}
    assert {path.name for path in (RECIPES / task).glob("*.yaml")} - others == set(DEPTHS[task])
    assert all(name in text for name in DEPTHS[task])
