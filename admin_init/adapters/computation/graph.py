"""Graph of a forward pass: every operation on tensors, and the modules whose outputs they are."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from admin_init._utils.isolation import WrittenParameters, storage_of

SAME_ELEMENTS = "alias"
"""Operation of a value whose memory was written through another tensor."""
_PARTLY_WRITTEN = "partly written"

# These read the shape and the type of their argument only.
_SHAPE_ONLY = frozenset(
    f"{kind}_{suffix}"
    for kind in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")
    for suffix in ("like",)
) | {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"}


class Memory:
    """The memory that a tensor and its views share."""

    def __init__(self) -> None:
        self.written: Value | None = None
        """The value that the last operation in place gave it."""


@dataclass(eq=False, slots=True)
class Value:
    """What a tensor holds at one time of the pass; operations in place make a new value."""

    index: int
    """Number of values before this one."""
    op: str
    """Name of the operation, such as ``add`` (also for ``add_``); empty for a tensor that the pass
    did not compute."""
    inputs: tuple[Value, ...]
    """Tensor arguments of the operation."""
    constants: tuple[Any, ...]
    """The other arguments of the operation."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    memory: Memory
    parameter: nn.Parameter | None = None
    """The parameter, if it is one."""
    readers: list[Value] = field(default_factory=list)
    """The values that were computed from this one."""
    outputs: list[Output] = field(default_factory=list)
    """The calls that returned this value, inner modules first."""


@dataclass(eq=False, slots=True)
class Call:
    """One call of a module."""

    module: nn.Module
    start: int
    """Index of the first value that it computed."""
    inputs: list[Value]
    """Tensors among its arguments, nested ones included."""
    arguments: list[Value | None]
    """Its arguments themselves, those with names last; None for one that is no tensor."""
    stop: int = -1
    """Index of the first value that was computed after it."""
    outputs: list[Output] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class Output:
    """A tensor in the output of a call."""

    call: Call
    leaf: int
    """Its index among the items of the output, nested ones included."""
    value: Value


class ForwardGraph(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that records the operations of a forward pass and the calls of a model's modules.

    No tensor is kept alive. Operations of a backward pass are left out. Parameters that operations
    write get back the values that they had.

    Args:
        model: The model that runs.
        before_operation: Called before each operation with its name, its tensor arguments, the
            values of these, and its other arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        before_operation: Callable[[str, list[Tensor], list[Value], tuple[Any, ...]], object]
        | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.values: list[Value] = []
        self.calls: list[Call] = []
        """All calls, in the order of their start."""
        self._before_operation = before_operation
        self._parameters = WrittenParameters(model)
        self._of_tensor: Any = WeakIdKeyDictionary()
        self._running: list[Call] = []
        self._hooks = ExitStack()

    @override
    def __enter__(self) -> ForwardGraph:
        for module in self.model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                before = module.register_forward_pre_hook(self._start, with_kwargs=True)
                after = module.register_forward_hook(self._stop)
                self._hooks.callback(before.remove)
                self._hooks.callback(after.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @override
    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._parameters.put_back()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._current_graph_task_id() != -1:  # a backward pass
            return func(*args, **kwargs)
        op = func._schema.name.partition("::")[2].rstrip("_")
        leaves = list(_flat((*args, *kwargs.values())))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        inputs = [] if op in _SHAPE_ONLY else [self.value_of(tensor) for tensor in tensors]
        constants = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        if self._before_operation is not None and inputs:
            self._before_operation(op, tensors, inputs, constants)
        mutable = func._schema.is_mutable
        written = list(_written(func, args, kwargs)) if mutable else []
        self._parameters.before_write(written)
        output = func(*args, **kwargs)
        made = [leaf for leaf in _flat((output,)) if isinstance(leaf, Tensor)]
        memories = {}
        if mutable or func.is_view or op == "_unsafe_view":
            memories = {storage_of(tensor): self.value_of(tensor).memory for tensor in tensors}
        for tensor in {id(tensor): tensor for tensor in (*made, *written)}.values():
            memory = memories.get(storage_of(tensor)) if memories else None
            value = self._add(tensor, op, inputs, constants, memory or Memory())
            if any(tensor is other for other in written):
                value.memory.written = value
        return output

    @functools.cached_property
    def runs(self) -> Counter[nn.Module]:
        """How often each module was called; to be read after the pass."""
        return Counter(call.module for call in self.calls)

    def value_of(self, tensor: Tensor) -> Value:
        """Return what ``tensor`` holds now."""
        value: Value | None = self._of_tensor.get(tensor)
        if value is None:
            value = self._add(tensor, "", (), (), Memory())
        written = value.memory.written
        if written is not None and written.index > value.index:
            whole = written.memory is value.memory and _elements(written) >= _elements(value)
            op, inputs = (
                (SAME_ELEMENTS, [written]) if whole else (_PARTLY_WRITTEN, [value, written])
            )
            value = self._add(tensor, op, inputs, (), value.memory)
        return value

    def _add(
        self,
        tensor: Tensor,
        op: str,
        inputs: Iterable[Value],
        constants: tuple[Any, ...],
        memory: Memory,
    ) -> Value:
        value = Value(
            index=len(self.values),
            op=op,
            inputs=tuple(inputs),
            constants=constants,
            shape=tuple(tensor.shape),
            strides=tuple(tensor.stride()) if tensor.layout == torch.strided else (),
            dtype=tensor.dtype,
            memory=memory,
            parameter=tensor if isinstance(tensor, nn.Parameter) else None,
        )
        for read in value.inputs:
            read.readers.append(value)
        self.values.append(value)
        self._of_tensor[tensor] = value
        return value

    def _start(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [self.value_of(leaf) for leaf in _tensors((args, kwargs))]
        given = (*args, *kwargs.values())
        arguments = [self.value_of(one) if isinstance(one, Tensor) else None for one in given]
        call = Call(module, len(self.values), inputs, arguments)
        self.calls.append(call)
        self._running.append(call)

    def _stop(self, module: nn.Module, args: Any, output: Any) -> None:
        # A call that raised an exception was not stopped.
        while (call := self._running.pop()).module is not module:
            pass
        for index, leaf in enumerate(tree_leaves(output)):
            if isinstance(leaf, Tensor):
                value = self.value_of(leaf)
                returned = Output(call, index, value)
                value.outputs.append(returned)
                call.outputs.append(returned)
        call.stop = len(self.values)


hidden = _disable_current_modes
"""Context whose operations are not recorded; their results count as inputs of the pass."""


def descends(value: Value, ancestor: Value) -> bool:
    """Return whether ``value`` was computed from ``ancestor``."""
    if value is ancestor:
        return False
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        for read in waiting.pop().inputs:
            if read is ancestor:
                return True
            if read.index > ancestor.index and read.index not in seen:
                seen.add(read.index)
                waiting.append(read)
    return False


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from _tensors(given)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    # The arguments of an operation are nested in lists at most; `tree_leaves` takes longer.
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _elements(value: Value) -> int:
    count = 1
    for size in value.shape:
        count *= size
    return count
