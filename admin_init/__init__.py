"""Admin, the initialization that lets deep Post-LN Transformers train (arXiv 2004.08249)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from admin_init.adapters.named import SitePattern, named_sites
    from admin_init.callbacks.admin import AdminInit
    from admin_init.callbacks.stability import StabilityMonitor
    from admin_init.errors import (
        AdminInitError,
        FoldError,
        NotPostLNError,
        ProfileError,
        TrainedModelError,
        UnsupportedModelError,
    )
    from admin_init.profile_data import AdminProfile, SiteProfile
    from admin_init.profiling import profile
    from admin_init.rescale import apply_, fold_, install_
    from admin_init.sites import find_sites
    from admin_init.version import __version__ as __version__

_HOME = {
    "AdminInit": "callbacks.admin",
    "AdminInitError": "errors",
    "AdminProfile": "profile_data",
    "FoldError": "errors",
    "NotPostLNError": "errors",
    "ProfileError": "errors",
    "SitePattern": "adapters.named",
    "SiteProfile": "profile_data",
    "StabilityMonitor": "callbacks.stability",
    "TrainedModelError": "errors",
    "UnsupportedModelError": "errors",
    "__version__": "version",
    "apply_": "rescale",
    "find_sites": "sites",
    "fold_": "rescale",
    "install_": "rescale",
    "named_sites": "adapters.named",
    "profile": "profiling",
}

__all__ = [
    "AdminInit",
    "AdminInitError",
    "AdminProfile",
    "FoldError",
    "NotPostLNError",
    "ProfileError",
    "SitePattern",
    "SiteProfile",
    "StabilityMonitor",
    "TrainedModelError",
    "UnsupportedModelError",
    "apply_",
    "find_sites",
    "fold_",
    "install_",
    "named_sites",
    "profile",
]


def __getattr__(name: str) -> Any:
    # AdminInit needs Lightning, which takes seconds to import and is not needed for the rest.
    if name not in _HOME:
        raise AttributeError(f"module 'admin_init' has no attribute {name!r}")
    return getattr(importlib.import_module(f"admin_init.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
