"""Small-scale studies of residual styles: measurements, a figure, and findings in sentences."""

from collections.abc import Callable

from admin_init.lab.studies.dependency import dependency
from admin_init.lab.studies.findings import Findings
from admin_init.lab.studies.omegas import omegas
from admin_init.lab.studies.output_change import output_change
from admin_init.lab.studies.spread import omega_spread

STUDIES: dict[str, Callable[..., Findings]] = {
    "output-change": output_change,
    "dependency": dependency,
    "omegas": omegas,
    "omega-spread": omega_spread,
}
"""Studies by their names on the command line."""

__all__ = ["STUDIES", "Findings", "dependency", "omega_spread", "omegas", "output_change"]
