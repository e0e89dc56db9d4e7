"""IGConv: one encoder and one upsampler for all integer super-resolution scales.

Public names load what they need on first use, so that importing the package is cheap.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "build_model": "model",
    "SuperResolver": "model",
    "SPConv": "upsamplers",
    "SPConvPlus": "upsamplers",
    "IGConv": "upsamplers",
    "IGSample": "upsamplers",
    "upscale": "upscaling",
    "load_official": "official",
    "save": "checkpoints",
    "load": "checkpoints",
    "InputError": "errors",
}
_MODULES = {"resize", "metrics", "losses"}
__all__ = sorted(_HOME.keys() | _MODULES)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"igconv.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"igconv.{name}")
    raise AttributeError(f"module 'igconv' has no attribute {name!r}")


def __dir__():
    return __all__
