"""IGConv: one encoder and one upsampler for all integer super-resolution scales.

Public names load what they need on first use, so that importing the package is cheap.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "build_model": "models.super_resolver",
    "SuperResolver": "models.super_resolver",
    "SPConv": "models.upsamplers",
    "SPConvPlus": "models.upsamplers",
    "IGConv": "models.upsamplers",
    "IGSample": "models.upsamplers",
    "upscale": "upscaling",
    "convert": "conversion.convert",
    "load_official": "models.official",
    "save": "models.checkpoints",
    "load": "models.checkpoints",
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
