"""Commands that take a recipe's model or one of the user's own: ``profile`` and ``fold``."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from admin_init._utils.output import results, say
from admin_init._utils.validation import PositiveInt, check
from admin_init.errors import AdminInitError

if TYPE_CHECKING:
    from admin_init.adapters.patterns import SitePattern
    from admin_init.omega import OmegaRule, Rule


def profile(
    recipe: str | None = None,
    output: str | None = None,
    batches: int = 1,
    rule: Rule = "reference",
    share: float | None = None,
    model: str | None = None,
    sites: list[SitePattern] | None = None,
    batch: str | None = None,
) -> int:
    """Compute a recipe's omegas on its first batches, or list a model's residual connections.

    Args:
        recipe: YAML file for `admin-init fit`. Its model is initialized with the recipe's seed.
        output: Output JSON file, for `AdminInit(profile=...)`. Required with `--recipe`.
        batches: With `--recipe`: number of training batches to average over.
        rule: Formula for the omegas: `reference` (the authors' code) and `paper` use the measured
            variances; `log` and `constant` are closed forms; `share` gives the input of each stack
            a share of the variance of its output.
        share: With `--rule share`: that share, between 0 and 1; 0.5 by default.
        model: Instead of `--recipe`: a function or class that builds a model, such as
            `my.module:build`. The residual connections that Admin finds are listed in order,
            followed by the reasons why other layers are not supported.
        sites: With `--model`: patterns of the module names of its residual connections, as in
            `AdminInit(sites=...)`. By default, layers of supported libraries are found.
        batch: With `--model`: a batch to find the connections in, and to profile the model on, or a
            function that returns one, such as `my.module:batch`. By default, the LightningModule's
            `example_input_array`.
    """
    from admin_init.omega import OmegaRule

    checked = OmegaRule(rule, share)
    if model is not None and recipe is None:
        return _profile_model(model, sites, batch, output, checked)
    if model is not None or sites is not None or recipe is None or output is None:
        raise AdminInitError(
            "give either `--recipe FILE --output FILE`, to profile the model of a recipe, or "
            "`--model MODULE:BUILD` (and `--sites`), to see what Admin finds in a model."
        )
    return _profile_recipe(recipe, output, batches, checked)


def _profile_model(
    build: str,
    patterns: list[SitePattern] | None,
    batch: str | None,
    output: str | None,
    rule: OmegaRule,
) -> int:
    from rich.console import Console

    from admin_init.adapters.survey import survey
    from admin_init.cli.model_loading import build_model, resolve_batch
    from admin_init.profiling.profile import profile as take_profile

    model = build_model(build)
    given = resolve_batch(model, batch) if batch is not None or output is not None else None
    found = survey(model, patterns, given, rule)
    if found.sites:
        Console(file=results()).print(found.table(), highlight=False)
    for reason in found.others.values():
        say(f"not supported: {reason}")
    if found.problem is not None:
        raise AdminInitError(found.problem)
    if output is not None:
        measured = take_profile(model, [given], rule=rule.name, share=rule.share, sites=patterns)
        measured.save(output)
        say(str(measured))
    return 0


def _profile_recipe(recipe: str, output: str, batches: int, rule: OmegaRule) -> int:
    from admin_init.profiling.profile import profile as take_profile
    from admin_init.translation.recipe_cli import recipe_cli

    check({"batches": PositiveInt}, locals())
    usage = {"usage": "admin-init profile --recipe FILE --output FILE [--OPTION VALUE ...]"}
    built = recipe_cli(["--config", recipe], run=False, parser_settings=usage)
    built.model.attach(built.datamodule)
    loader = islice(iter(built.datamodule.train_dataloader()), batches)
    found = take_profile(
        built.model,
        loader,
        forward=lambda model, batch: model(batch.source, batch.target_input),
        rule=rule.name,
        share=rule.share,
    )
    found.save(output)
    say(str(found))
    return 0


def fold(
    checkpoint: str,
    output: str,
    model: str | None = None,
    sites: list[SitePattern] | None = None,
    batch: str | None = None,
) -> int:
    """Fold the omegas of a checkpoint into its weights, without changing the outputs.

    Args:
        checkpoint: Checkpoint of a model trained with AdminInit.
        output: Output checkpoint; if it ends in `.safetensors`, only the weights are written.
        model: A function or class that builds the model, such as `my.module:Net`; not needed for
            checkpoints of `admin-init fit`.
        sites: The patterns that were given to `AdminInit(sites=...)`, if any.
        batch: A batch on which the outputs before and after are compared, or a function that
            returns one, such as `my.module:batch`. By default, the LightningModule's
            `example_input_array`.
    """
    if model is None:
        from admin_init.translation.checkpoint import fold_checkpoint

        difference = fold_checkpoint(checkpoint, output)
    else:
        from functools import partial

        from admin_init.adapters.discovery import call_model
        from admin_init.cli.model_loading import load_model, resolve_batch
        from admin_init.folding import write_folded

        module, found, content = load_model(model, checkpoint, sites)
        run = partial(call_model, module, resolve_batch(module, batch))
        difference = write_folded(module, content, output, run, sites=found)
    say(f"{output}: outputs differ by at most {difference:.1e}")
    return 0
