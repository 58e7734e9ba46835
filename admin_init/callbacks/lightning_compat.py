"""Helpers for both packages of Lightning: callbacks, module hooks, and steps without logging."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

if TYPE_CHECKING or not find_spec("lightning"):
    Callback = pl.Callback
else:
    import lightning.pytorch

    # A Trainer accepts only callbacks of its own package, so this class extends both.
    class Callback(pl.Callback, lightning.pytorch.Callback):
        """Base class for the Trainers of ``pytorch_lightning`` and of ``lightning.pytorch``."""


def is_overridden(pl_module: pl.LightningModule, hook: str) -> bool:
    """Return whether the module overrides ``hook``."""
    base = importlib.import_module(lightning_package(pl_module)).LightningModule
    return getattr(type(pl_module), hook) is not getattr(base, hook)


def wrap_hook_once(
    pl_module: pl.LightningModule,
    hook: str,
    wrapper: Callable[[pl.LightningModule, Any], object],
) -> Callable[[], None]:
    """Wrap the next call of a hook of this module; the call removes the wrapper.

    Lightning calls no callback hook between ``configure_model`` and the creation of the optimizers,
    so omega has to be added in the module's own hooks.

    Returns:
        A function that removes the wrapper if the hook has not been called.
    """
    original = getattr(pl_module, hook)
    before = vars(pl_module).get(hook)

    def remove() -> None:
        if vars(pl_module).get(hook) is not once:
            return
        if before is None:
            delattr(pl_module, hook)
        else:
            setattr(pl_module, hook, before)

    @functools.wraps(original)
    def once(*args: Any, **kwargs: Any) -> object:
        remove()
        return wrapper(pl_module, functools.partial(original, *args, **kwargs))

    setattr(pl_module, hook, once)
    return remove


def step_arguments(pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """Return the arguments of ``training_step``: like Lightning, the index only if it is taken."""
    kinds = [p.kind for p in inspect.signature(pl_module.training_step).parameters.values()]
    named = kinds.count(Parameter.POSITIONAL_OR_KEYWORD) + kinds.count(Parameter.POSITIONAL_ONLY)
    takes = 2 if named > 1 or Parameter.VAR_POSITIONAL in kinds else 1
    return (batch, batch_idx)[:takes]


def step_loss(trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any) -> Tensor | None:
    """Return the loss that ``training_step`` returned, if any."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        return None
    # For gradient accumulation, Lightning has divided the loss.
    parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
    return loss.detach() * parts


@contextmanager
def logging_disabled(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Disable ``self.log`` and the loggers until exit."""
    dummy = importlib.import_module(f"{lightning_package(trainer)}.loggers.logger").DummyLogger
    loggers = trainer.loggers
    trainer.loggers = [dummy() for _ in loggers]
    try:
        with _overridden(pl_module, log=_ignore, log_dict=_ignore):
            yield
    finally:
        trainer.loggers = loggers


def lightning_package(instance: object) -> str:
    """Return the import name of the package of Lightning that an object's class comes from."""
    modules = [cls.__module__ for cls in type(instance).__mro__]
    packages = ("pytorch_lightning", "lightning.pytorch")
    return next(p for p in packages if any(module.startswith(f"{p}.") for module in modules))


@contextmanager
def updates_held(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let a training step with manual optimization update nothing until exit.

    A closure of ``optimizer.step`` is still called.
    """
    if pl_module.automatic_optimization:
        yield
        return
    gradients = [(parameter, parameter.grad) for parameter in pl_module.parameters()]
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    optimizers = [*trainer.strategy._lightning_optimizers, *trainer.optimizers]
    with ExitStack() as stack:
        stack.enter_context(_overridden(pl_module, manual_backward=_ignore))
        for optimizer in optimizers:
            stack.enter_context(_overridden(optimizer, step=_call_closure, zero_grad=_ignore))
        for scheduler in schedulers:
            stack.enter_context(_overridden(scheduler, step=_ignore))
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextmanager
def _overridden(owner: object, **methods: Callable[..., object]) -> Iterator[None]:
    """Give an object other methods until exit."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            vars(owner).pop(name, None)
        vars(owner).update(before)


def _call_closure(closure: Callable[[], object] | None = None, **_: Any) -> object:
    return None if closure is None else closure()


_T = TypeVar("_T")


def with_gradients_if_needed(call: Callable[[AbstractContextManager[object]], _T]) -> _T:
    """Call a function with a context for its forward pass; again, if that pass needs gradients.

    The first context does nothing, the second enables gradients. Some training steps
    differentiate, for a gradient penalty or forces.
    """
    try:
        return call(nullcontext())
    except RuntimeError as error:
        if not re.search(r"requires?[_ ]grad", str(error)):
            raise
    return call(torch.enable_grad())


def _ignore(*args: Any, **kwargs: Any) -> None:
    pass
