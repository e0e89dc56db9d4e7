"""Encoders: image (B, 3, H, W) -> features (B, C, H, W).

An encoder is any ``nn.Module`` of that shape with an attribute ``out_channels``. It may also have ``pad_to`` (int:
input sides become multiples of it) with ``pad_mode``, ``mean`` and ``img_range`` (fixed normalisation), and
``stages()`` (name -> module, first to last, for the analyses).
"""

from igconv.encoders.edsr import EDSR
from igconv.encoders.smfanet import SMFANet

# name -> constructor and the options of the preset; `build_model` lets a caller override each of them.
ENCODERS: dict[str, tuple[type, dict]] = {
    "edsr": (EDSR, dict(channels=256, blocks=32, res_scale=0.1)),
    "edsr_baseline": (EDSR, dict(channels=64, blocks=16)),
    "edsr_tiny": (EDSR, dict(channels=24, blocks=4)),
    "smfanet": (SMFANet, dict(channels=36, blocks=8)),
    "smfanet_plus": (SMFANet, dict(channels=48, blocks=12)),
}
