"""Every encoder in a size of seconds."""

import pytest

TINY = {  # every constructor in a size of seconds; windows of 4 or 8, sides of 16
    "edsr": dict(channels=8, blocks=2),
    "rcan": dict(channels=8, groups=2, blocks=1, reduction=2),
    "rdn": dict(channels=8, blocks=2, layers=2, growth=4),
    "smfanet": dict(channels=8, blocks=2),
    "plksr": dict(channels=8, blocks=2, large_kernel_size=5),
    "swinir": dict(channels=24, depths=(2, 2), heads=(2, 2), window=4, img_size=16),
    "srformer": dict(channels=24, depths=(2, 2), heads=(2, 2), window=4, img_size=16),
    "hit_srf": dict(channels=48, depths=(2,), heads=(2,), base_window=(4, 4), window_ratios=(1, 2)),
    "mambair": dict(channels=16, depths=(2, 1), state_dim=4, squeeze=4),
    "hat": dict(channels=24, depths=(2,), heads=(2,), window=4, squeeze=6),
    "atd": dict(channels=24, depths=(3,), heads=(2,), window=8, category_size=64, tokens=12, token_channels=6),
}
EXTRAS = {"srformer": "spandrel_extra_arches", "mambair": "mambapy", "mambair_light": "mambapy",
          "mambair_light_baseline": "mambapy"}  # fmt: skip


def needs(encoder: str) -> None:
    """Skip what an optional extra is missing for."""
    if encoder in EXTRAS:
        pytest.importorskip(EXTRAS[encoder], reason=f"optional extra of {encoder}")
