"""Log a profile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from admin_init.admin_profile import AdminProfile
from admin_init.measures.figures import dependency_figure

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


def log_profile(loggers: Iterable[Logger], profile: AdminProfile) -> None:
    """Log a profile to every logger.

    TensorBoard gets the omegas as one curve per stack over the index of the sub-layer, the table,
    the JSON and, with the extra ``lab``, a figure. Any other logger gets one metric per site.
    """
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if not all(hasattr(experiment, name) for name in ("add_scalar", "add_text", "add_figure")):
            logger.log_metrics({f"admin/omega/{s.name}": s.omega for s in profile.sites}, step=0)
            continue
        sublayers: Counter[str] = Counter()
        for site in profile.sites:
            sublayers[site.stack] += 1
            experiment.add_scalar(f"admin/omega/{site.stack}", site.omega, sublayers[site.stack])
        experiment.add_text("admin/profile", f"```\n{profile}\n```", 0)
        experiment.add_text("admin/json", f"```\n{json.dumps(profile.to_dict())}\n```", 0)
        if find_spec("matplotlib"):
            experiment.add_figure("admin/dependency", dependency_figure(profile), 0)
