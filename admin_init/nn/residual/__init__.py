"""Residual styles, one file each; importing this package registers them all."""

from admin_init.nn.residual.admin import (
    AdminStyle,
    ClosedAdminStyle,
    ConstantAdminStyle,
    ShareAdminStyle,
)
from admin_init.nn.residual.b2t import B2TResidual, B2TStyle, ScaledB2TStyle
from admin_init.nn.residual.base import (
    RESIDUAL_STYLES,
    Branch,
    ResidualConnection,
    ResidualStyle,
    SkipConnection,
    StackEnd,
    StackKind,
    StackShape,
    State,
    SublayerKind,
    register_style,
    residual_style,
)
from admin_init.nn.residual.deepnorm import DeepNormResidual, DeepNormStyle
from admin_init.nn.residual.keel import KeelResidual, KeelStyle
from admin_init.nn.residual.layerscale import LayerScaleResidual, LayerScaleStyle
from admin_init.nn.residual.lns import LNSResidual, LNSStyle
from admin_init.nn.residual.peri_ln import PeriResidual, PeriStyle
from admin_init.nn.residual.post import PostResidual, PostStyle
from admin_init.nn.residual.pre import FinalNorm, PreResidual, PreStyle, SharePreStyle
from admin_init.nn.residual.resi_dual import ResiDualEnd, ResiDualResidual, ResiDualStyle
from admin_init.nn.residual.rezero import Gate, ReZeroResidual, ReZeroStyle
from admin_init.nn.residual.sub_ln import SubLNStyle
from admin_init.nn.residual.t_fixup import TFixupResidual, TFixupStyle

__all__ = [
    "RESIDUAL_STYLES",
    "AdminStyle",
    "B2TResidual",
    "B2TStyle",
    "Branch",
    "ClosedAdminStyle",
    "ConstantAdminStyle",
    "DeepNormResidual",
    "DeepNormStyle",
    "FinalNorm",
    "Gate",
    "KeelResidual",
    "KeelStyle",
    "LNSResidual",
    "LNSStyle",
    "LayerScaleResidual",
    "LayerScaleStyle",
    "PeriResidual",
    "PeriStyle",
    "PostResidual",
    "PostStyle",
    "PreResidual",
    "PreStyle",
    "ReZeroResidual",
    "ReZeroStyle",
    "ResiDualEnd",
    "ResiDualResidual",
    "ResiDualStyle",
    "ResidualConnection",
    "ResidualStyle",
    "ScaledB2TStyle",
    "ShareAdminStyle",
    "SharePreStyle",
    "SkipConnection",
    "StackEnd",
    "StackKind",
    "StackShape",
    "State",
    "SubLNStyle",
    "SublayerKind",
    "TFixupResidual",
    "TFixupStyle",
    "register_style",
    "residual_style",
]
