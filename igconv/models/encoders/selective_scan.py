"""The recurrence of selective state spaces (Mamba: Gu and Dao 2023, arXiv 2312.00752, section 3).

For every channel d of a sequence, with n states, and step sizes delta = softplus(step + bias),

    h_t = exp(delta_t A_d) h_{t-1} + delta_t B_t u_t          y_t = C_t . h_t + D_d u_t

mamba_ssm's kernel computes it on a GPU when that package is there. Otherwise mambapy's parallel scan does, in chunks
of the sequence that stay small: the states are n times as large as the sequence, and a scan over all of them at once
is both slower on a CPU (the chunks fit its cache) and too large to keep for the backward pass (each chunk is
computed again there, as in mamba_ssm).
"""

import importlib.util
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from igconv.errors import InputError

# States (elements) per chunk: 4 MiB for a CPU's cache; on a GPU 256 MiB, because a chunk costs some 60 launches.
CPU_CHUNK, GPU_CHUNK = 2**20, 2**26


def require_backend(on_cpu: bool = False) -> None:
    """InputError with the command that helps, unless a package that can do the scan is installed."""
    names = ("mambapy",) if on_cpu else ("mambapy", "mamba_ssm")
    if not any(_installed(name) for name in names):
        raise InputError("MambaIR needs the package mambapy, or mamba_ssm on a GPU: pip install 'igconv[mamba]'")


@cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def selective_scan(u: Tensor, step: Tensor, bias: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan K sequences of length L with d channels and n states per channel, each with its own A, D and bias.

    Args:
        u, step: (batch, K, L, d), inputs and step sizes before bias and softplus.
        bias, D: (K, d). A: (K, d, n), negative. B, C: (batch, K, L, n).

    Returns: y (batch, K, L, d), float32 (float64 for float64 input): half precision is not enough for the states.

    Raises: InputError when no package can do it on the device of ``u``.
    """
    precise = torch.float64 if u.dtype == torch.float64 else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        arguments = [tensor.to(precise) for tensor in (u, step, bias, A, B, C, D)]
        if u.is_cuda and precise == torch.float32 and _installed("mamba_ssm"):
            return _scan_by_kernel(*arguments)
        require_backend(on_cpu=True)
        return _scan_by_chunks(*arguments)


def _scan_by_kernel(u, step, bias, A, B, C, D):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]

    k, d = bias.shape
    u, step = (t.transpose(2, 3).flatten(1, 2).contiguous() for t in (u, step))  # (batch, K d, L)
    B, C = (t.transpose(2, 3).contiguous() for t in (B, C))  # (batch, K, n, L)
    y = selective_scan_fn(u, step, A.flatten(0, 1), B, C, D.flatten(), delta_bias=bias.flatten(), delta_softplus=True)
    return y.unflatten(1, (k, d)).transpose(2, 3)


def _scan_by_chunks(u, step, bias, A, B, C, D, *, chunk: int = 0):
    """``chunk``: length of the pieces; 0 to choose it by the size of the states."""
    batch, k, _, d = u.shape
    if not chunk:
        budget = (GPU_CHUNK if u.is_cuda else CPU_CHUNK) // (batch * A.numel())
        chunk = 2 ** max(4, budget.bit_length() - 1)  # the scan pads other lengths to a power of two
    h = u.new_zeros(batch, k, d, A.shape[-1])
    pieces = []
    for start in range(0, u.shape[2], chunk):
        cut = slice(start, start + chunk)
        arguments = (h, u[:, :, cut], step[:, :, cut], B[:, :, cut], C[:, :, cut], bias, A, D)
        if torch.is_grad_enabled():
            y, h = checkpoint(_scan_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, h = _scan_chunk(*arguments)
        pieces.append(y)
    return torch.cat(pieces, dim=2)


def _scan_chunk(h, u, step, B, C, bias, A, D):
    """One chunk that starts from the states h (batch, K, d, n): its y, and the states after it."""
    from mambapy.pscan import pscan

    delta = F.softplus(step + bias[:, None])
    decay = torch.exp(delta[..., None] * A[:, None])  # (batch, K, l, d, n)
    inputs = (delta * u)[..., None] * B[..., None, :]
    inputs[:, :, 0].addcmul_(decay[:, :, 0], h)
    states = pscan(decay.flatten(0, 1), inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    y = (C[..., None, :] @ states.transpose(-1, -2)).squeeze(-2)  # four times as fast as states @ C
    # The copy lets go of the other states, of which a view would keep every one.
    return y + D[:, None] * u, states[:, :, -1].clone()
