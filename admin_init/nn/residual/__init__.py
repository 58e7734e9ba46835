"""Residual styles, one file each; importing this package registers them all."""

from admin_init.nn.residual.admin import AdminStyle, ClosedAdminStyle, ConstantAdminStyle
from admin_init.nn.residual.base import (
    RESIDUAL_STYLES,
    Branch,
    Place,
    ResidualConnection,
    ResidualStyle,
    SkipConnection,
    StackEnd,
    StackShape,
    State,
    register_style,
    residual_style,
)
from admin_init.nn.residual.post import PostResidual, PostStyle
from admin_init.nn.residual.pre import FinalNorm, PreResidual, PreStyle

__all__ = [
    "RESIDUAL_STYLES",
    "AdminStyle",
    "Branch",
    "ClosedAdminStyle",
    "ConstantAdminStyle",
    "FinalNorm",
    "Place",
    "PostResidual",
    "PostStyle",
    "PreResidual",
    "PreStyle",
    "ResidualConnection",
    "ResidualStyle",
    "SkipConnection",
    "StackEnd",
    "StackShape",
    "State",
    "register_style",
    "residual_style",
]
