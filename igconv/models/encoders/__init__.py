"""Encoders: image (B, 3, H, W) -> features (B, C, H, W).

An encoder is any ``nn.Module`` of that shape. It may have these attributes:

    out_channels        C; found by a small trial run if it is missing
    pad_to, pad_mode    input sides become multiples of this integer ("reflect", "symmetric", "replicate", "constant")
    mean, img_range     the encoder is given (image - mean) * img_range, the upsampler's output is taken back by the
                        inverse; with ``trained_mean = True`` both are 1x1 convolutions that start there
    stages()            name -> module, first to last, for the analyses
    constant            what its own head added to each colour; a head without a bias gets it (`build_model`)
    recipe              what a file of the model has to say of the encoder (`headless.rebuilt`)

`from_spandrel` makes one of a fixed-scale network.
"""

import warnings
from dataclasses import dataclass
from importlib import import_module
from inspect import Signature, signature

from torch import nn

from igconv.models.encoders.edsr import EDSR
from igconv.models.encoders.smfanet import SMFANet


@dataclass(frozen=True)
class Lazy:
    """A class of this package that is imported when it is called, because what it needs is slow or optional."""

    module: str
    name: str

    def load(self) -> type[nn.Module]:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # spandrel's, about torch.jit
            return getattr(import_module(f"igconv.models.encoders.{self.module}"), self.name)

    def __call__(self, *arguments, **options) -> nn.Module:
        return self.load()(*arguments, **options)

    @property
    def __signature__(self) -> Signature:  # what inspect.signature shows
        return signature(self.load())


_FOUR, _SIX = (6,) * 4, (6,) * 6  # blocks per group, or heads

# name -> constructor and the options of the preset; `build_model` lets a caller override each of them.
ENCODERS: dict[str, tuple[type | Lazy, dict]] = {
    "edsr": (EDSR, dict(channels=256, blocks=32, res_scale=0.1)),
    "edsr_baseline": (EDSR, dict(channels=64, blocks=16)),
    "edsr_tiny": (EDSR, dict(channels=24, blocks=4)),
    "rcan": (Lazy("zoo", "RCAN"), dict(channels=64, groups=10, blocks=20, reduction=16)),
    "rdn": (Lazy("rdn", "RDN"), dict(channels=64, blocks=16, layers=8, growth=64)),
    "smfanet": (SMFANet, dict(channels=36, blocks=8)),
    "smfanet_plus": (SMFANet, dict(channels=48, blocks=12)),
    "plksr": (Lazy("zoo", "PLKSR"), dict(channels=64, blocks=28, mixer="DCCM", large_kernel_size=17)),
    "swinir": (Lazy("zoo", "SwinIR"), dict(channels=180, depths=_SIX, heads=_SIX, window=8, img_size=48)),
    "srformer": (Lazy("srformer", "SRFormer"), dict(channels=180, depths=_SIX, heads=_SIX, window=22)),
    "hit_srf": (Lazy("hit_srf", "HiTSRF"), dict(channels=60, depths=_FOUR, heads=_FOUR, base_window=(8, 8))),
    "mambair": (Lazy("mambair", "MambaIR"), dict(channels=180, depths=_SIX, expand=2.0)),
    # The authors train the light model with IGConv at the compression of the large one; its fixed-scale baseline has 6.
    "mambair_light": (Lazy("mambair", "MambaIR"), dict(channels=60, depths=_FOUR, expand=1.5)),
    "mambair_light_baseline": (Lazy("mambair", "MambaIR"), dict(channels=60, depths=_FOUR, expand=1.5, compression=6)),
    "hat": (Lazy("zoo", "HAT"), dict(channels=180, depths=_SIX, heads=_SIX, window=16, overlap=0.5)),
    "atd": (Lazy("zoo", "ATD"), dict(channels=210, depths=_SIX, heads=_SIX, window=16, tokens=128)),
}


def from_spandrel(model_or_file, **options) -> nn.Module:
    """See `igconv.models.encoders.headless.from_spandrel`; spandrel is imported here, on use."""
    from igconv.models.encoders.headless import from_spandrel

    return from_spandrel(model_or_file, **options)
