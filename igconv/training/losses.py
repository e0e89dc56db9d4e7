"""Losses: pixel L1 and the L1 of un-normalised Fourier coefficients."""

import torch
import torch.nn.functional as F
from torch import Tensor


def both(sr: Tensor, hr: Tensor, frequency: bool = True) -> list[Tensor]:
    """[`l1`, `frequency_l1`] of one difference, which is made once; without ``frequency`` the first alone."""
    difference = sr - hr
    return [difference.abs().mean(), *([_transformed(difference)] if frequency else [])]


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """mean |sr - hr|, a scalar. Images (B, 3, H, W) of equal shape."""
    return F.l1_loss(sr, hr)


def frequency_l1(sr: Tensor, hr: Tensor) -> Tensor:
    """mean of |Re| and |Im| of rfft2(sr) - rfft2(hr), a scalar; images (B, 3, H, W), transformed over H and W.

    The transform is not normalised (``norm="backward"``), so the value grows with the side of the patch: for
    white-noise errors on 96 x 96 pixels it is about 66 times the pixel L1. Source: the authors' ``fft_loss.py``.
    """
    return _transformed(sr.float() - hr.float())  # rfft2 has no half-precision kernel


def _transformed(difference: Tensor) -> Tensor:
    # The difference is transformed, once, because the transform is linear.
    return torch.view_as_real(torch.fft.rfft2(difference, norm="backward")).abs().mean()
