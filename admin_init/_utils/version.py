"""The installed version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("admin-init")
except PackageNotFoundError:
    __version__ = "unknown"
