"""IGConv: one encoder and one upsampler for all integer super-resolution scales.

Public names load what they need on first use, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` finds, for whoever reads types
    from igconv.data import resize as resize
    from igconv.errors import InputError as InputError
    from igconv.evaluation import metrics as metrics
    from igconv.models.checkpoints import load as load
    from igconv.models.checkpoints import save as save
    from igconv.models.hub import from_pretrained as from_pretrained
    from igconv.models.hub import save_pretrained as save_pretrained
    from igconv.models.official import load_official as load_official
    from igconv.models.super_resolver import SuperResolver as SuperResolver
    from igconv.models.super_resolver import build_model as build_model
    from igconv.models.upsamplers import IGConv as IGConv
    from igconv.models.upsamplers import IGSample as IGSample
    from igconv.models.upsamplers import SPConv as SPConv
    from igconv.models.upsamplers import SPConvPlus as SPConvPlus
    from igconv.training import losses as losses
    from igconv.training.converting import convert as convert
    from igconv.upscaling import upscale as upscale

__version__ = "0.1.0"

_HOME = {
    "build_model": "models.super_resolver",
    "SuperResolver": "models.super_resolver",
    "SPConv": "models.upsamplers",
    "SPConvPlus": "models.upsamplers",
    "IGConv": "models.upsamplers",
    "IGSample": "models.upsamplers",
    "upscale": "upscaling",
    "convert": "training.converting",
    "load_official": "models.official",
    "save": "models.checkpoints",
    "load": "models.checkpoints",
    "save_pretrained": "models.hub",
    "from_pretrained": "models.hub",
    "InputError": "errors",
}
_MODULES = {"resize": "data.resize", "metrics": "evaluation.metrics", "losses": "training.losses"}
__all__ = sorted(_HOME.keys() | _MODULES.keys())


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"igconv.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"igconv.{_MODULES[name]}")
    raise AttributeError(f"module 'igconv' has no attribute {name!r}")


def __dir__():
    return __all__
