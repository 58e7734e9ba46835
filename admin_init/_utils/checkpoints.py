"""Checkpoints: read without running any code in them, written whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from admin_init._utils.atomic_files import make_folder, move_whole, write_bytes
from admin_init.errors import AdminInitError


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a Lightning checkpoint without running any code in it.

    Raises:
        AdminInitError: The file does not exist, is not a checkpoint, or contains NaN weights.
    """
    return lightning_checkpoint(load(path), path)


def lightning_checkpoint(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the loaded content of ``path``, if it is a usable Lightning checkpoint.

    Raises:
        AdminInitError: It is not one, or its weights are unusable; see :func:`check_weights`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise AdminInitError(f"{path} is not a Lightning checkpoint: it has no `state_dict`.")
    check_weights(content["state_dict"], path)
    return content


def check_weights(weights: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Check that the weights of a checkpoint are complete tensors without NaN.

    Raises:
        AdminInitError: A weight is not a tensor, is larger than its data in the file, or contains
            NaN.
    """
    for name, weight in weights.items():
        if (
            not isinstance(weight, torch.Tensor)
            or weight.nbytes > weight.untyped_storage().nbytes()
        ):
            raise AdminInitError(
                f"{path} cannot be used: `{name}` is not a tensor, or is larger than its data in "
                "the file."
            )
    if lost := weights_with_nan(weights):
        raise AdminInitError(
            f"{path} contains NaN in {len(lost)} of its {len(weights)} weights, first in "
            f"`{lost[0]}`. The training had diverged when it was saved; use an earlier checkpoint."
        )


def weights_with_nan(weights: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights that contain NaN."""
    # Infinity is allowed: a mask may contain it. fairseq never sets its `_float_tensor`.
    return [
        name
        for name, weight in weights.items()
        if weight.is_floating_point()
        and not name.endswith("._float_tensor")
        and bool(weight.isnan().any())
    ]


def has_omegas(weights: Mapping[str, Any]) -> bool:
    """Return whether a state dict contains omegas."""
    return any(name.endswith(".omega") for name in weights)


def require_omegas(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checkpoint of ``path``, if it contains omegas.

    Raises:
        AdminInitError: It contains no omegas.
    """
    if not has_omegas(checkpoint["state_dict"]):
        raise AdminInitError(f"{path} has no omegas, so there is nothing to fold.")
    return checkpoint


def load(path: str | os.PathLike[str]) -> Any:
    """Load a file of ``torch.save`` without running any code in it.

    Raises:
        AdminInitError: The file does not exist, or is not one of ``torch.save``.
    """
    if not Path(path).is_file():
        raise AdminInitError(f"There is no checkpoint at {path}.")
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message fills a page, and advises to run the code in the file.
        raise AdminInitError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or "
            "holds more than tensors and plain values."
        ) from error


def write_checkpoint(checkpoint: dict[str, Any], destination: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all."""
    # Through memory, because torch's own writer does not report a full disk.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_bytes(destination, content.getbuffer())


def write_safetensors(model: nn.Module, destination: str | os.PathLike[str]) -> None:
    """Write the weights of ``model`` for ``safetensors.torch.load_model``, whole or not at all.

    Raises:
        AdminInitError: The file cannot be written.
    """
    destination = Path(destination)
    make_folder(destination.parent)
    with tempfile.TemporaryDirectory(prefix=".", dir=destination.parent) as folder:
        part = Path(folder) / destination.name
        try:
            save_model(model, str(part), {"format": "pt"})
        except SafetensorError as error:
            raise AdminInitError(f"{destination} cannot be written: {error}") from error
        move_whole(part, destination)


def _check_sums(path: str | os.PathLike[str]) -> None:
    # torch.load does not verify the zip file's CRCs, so check them here.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            # torch never compresses, so a larger content means a zip bomb.
            if sum(member.file_size for member in file.infolist()) > os.stat(path).st_size:
                raise zipfile.BadZipFile("it would unpack to more than its size")
            damaged = file.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
