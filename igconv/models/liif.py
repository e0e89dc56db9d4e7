"""LIIF as an upsampler: an MLP that is asked for every HR pixel, what IGConv replaces by one convolution.

A feature vector describes the image around its LR pixel ("cell"). A query at x reads the four cells nearest to it
and mixes their answers by area ("local ensemble"). With the 3 x 3 neighbourhood F_p of features around cell p
("feature unfolding"), positions v_p, and lengths in half cells,

    f_p(x) = MLP(F_p, x - v_p, size of an HR pixel)                                    ("cell decoding")
    I(x)   = sum_p w(x - v_p) f_p(x),    w(d) = (1 - |d_y| / 2) (1 - |d_x| / 2),   zero from |d| = 2 on

Source: Chen, Liu and Wang, "Learning Continuous Image Representation with Local Implicit Image Function", CVPR 2021,
section 3 (the area of the rectangle opposite to a neighbour is w). Written from the paper. As in the authors'
experiments, neighbours outside the image count as its border cells, so they drop out and the other weights fill up
to 1. Their head has no bilinear image added to it, and neither has this one.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from igconv.errors import positive_integer

# The most rows (cells x queries) that go through the MLP in one piece: at hidden_dim 256 one activation of this many
# is 64 MiB in float32.
ROWS_PER_CHUNK = 65_536


def query_offsets(scale: int, device: torch.device | str = "cpu", dtype=torch.float32) -> Tensor:
    """d along one axis, in half cells, of all HR pixels that a cell has a share in: |d| < 2, shape (n,).

    They are (2 t + 1 - r) / r for the sub-pixels t = -(r // 2) ... of the cell (its own are 0 to r - 1), because the
    HR grid lies the same way over every cell. n is 2 r for an even r and 2 r - 1 for an odd one.
    """
    t = torch.arange(-(scale // 2), 3 * scale // 2, device=device, dtype=dtype)
    return (2 * t + 1 - scale) / scale


def border_weight(scale: int, size: int, device: torch.device | str = "cpu", dtype=torch.float32) -> Tensor:
    """Sum of w along one axis of ``size`` cells at every HR pixel, shape (r size,).

    It is 1 between the centres of the first and the last cell and falls to 1/2 at the edges of the image.
    """
    x = torch.arange(1 - scale, (2 * size - 1) * scale, 2, device=device, dtype=dtype) / (2 * scale)  # in cells
    return 1 - (x - x.clamp(0, size - 1)).abs()


class LIIF(nn.Module):
    """Local implicit image function, by an integer scale >= 1: (B, C, H, W) -> (B, 3, r H, r W).

    On a regular grid the cells need not be gathered per query: every cell answers the same n x n queries around it
    (`query_offsets`), its answers are weighted, and overlapping patches are added up. The first linear layer acts on
    (F_p, d, size), so it is a 3 x 3 convolution of the features, once per cell, plus a linear map of (d, size), once
    per offset.

    Args:
        channels: C of the features.
        hidden_dim, num_layers: width and number of the hidden layers; the paper's are 256 and 4.

    Parameters: (9 C + 4) hidden_dim + hidden_dim for the first layer, then those of the other linear layers.
    Constants are made on the device from numbers, so a CUDA graph can record a training step.
    """

    def __init__(self, channels: int, hidden_dim: int = 256, num_layers: int = 4):
        super().__init__()
        for value, name in ((channels, "channels"), (hidden_dim, "hidden_dim"), (num_layers, "num_layers")):
            positive_integer(value, name)
        self.of_features = nn.Conv2d(channels, hidden_dim, 3, padding=1)  # zeros outside the image, as LIIF unfolds
        self.of_query = nn.Linear(4, hidden_dim, bias=False)  # (d_y, d_x, height, width) of an HR pixel, in half cells
        bound = (9 * channels + 4) ** -0.5  # PyTorch's start of the one layer that the two are
        for parameter in (*self.of_features.parameters(), *self.of_query.parameters()):
            nn.init.uniform_(parameter, -bound, bound)
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers += [nn.ReLU(inplace=True), nn.Linear(hidden_dim, hidden_dim)]
        self.mlp = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(hidden_dim, 3))

    def forward(self, features: Tensor, scale: int) -> Tensor:
        """features (B, C, H, W) -> image (B, 3, r H, r W), at least float32."""
        r = positive_integer(scale, "scale")
        b, _, h, w = features.shape
        like: dict[str, Any] = dict(device=features.device, dtype=torch.promote_types(features.dtype, torch.float32))
        cells = self.of_features(features).permute(0, 2, 3, 1).flatten(0, 2)  # (B H W, hidden_dim)
        d = query_offsets(r, **like)
        window = 1 - d.abs() / 2
        answers = self._answers(cells, self._queries(d, r).to(cells.dtype))  # (B H W, n n, 3)
        patches = answers * (window[:, None] * window).view(-1, 1)
        patches = patches.view(b, h * w, -1, 3).permute(0, 3, 2, 1).flatten(1, 2)  # (B, 3 n n, H W)
        image = F.fold(patches, (r * h, r * w), kernel_size=len(d), stride=r, padding=r // 2)
        return image / (border_weight(r, h, **like)[:, None] * border_weight(r, w, **like))

    def _queries(self, d: Tensor, scale: int) -> Tensor:
        """First layer's share of the queries, (n n, hidden_dim): in full precision, as all coordinates here."""
        with torch.autocast(d.device.type, enabled=False):
            y, x = torch.meshgrid(d, d, indexing="ij")
            size = torch.full_like(x, 2 / scale)
            queries = torch.stack([y, x, size, size], dim=-1).flatten(0, 1)
            return self.of_query(queries.to(self.of_query.weight.dtype))

    def _answers(self, cells: Tensor, queries: Tensor) -> Tensor:
        """RGB of every query to every cell, (cells, queries, 3).

        More than `ROWS_PER_CHUNK` of them go through the MLP in chunks, and with gradients each chunk is recomputed
        in the backward pass instead of kept.
        """
        if len(cells) * len(queries) <= ROWS_PER_CHUNK:
            return self._ask(cells, queries)
        pieces = cells.split(max(1, ROWS_PER_CHUNK // len(queries)))
        if not torch.is_grad_enabled():
            return torch.cat([self._ask(piece, queries) for piece in pieces])
        # Nothing here is random; saving the generators' states would make a GPU wait.
        return torch.cat(
            [checkpoint(self._ask, piece, queries, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
        )

    def _ask(self, cells: Tensor, queries: Tensor) -> Tensor:
        return self.mlp(cells[:, None] + queries)

    def instantiate(self, scale: int) -> "FixedLIIF":
        """A copy for one scale, called as (features) -> image. The MLP stays: there are no kernels to be stored."""
        return FixedLIIF(self, positive_integer(scale, "scale"))


class FixedLIIF(nn.Module):
    """`LIIF` at one scale."""

    def __init__(self, liif: LIIF, scale: int):
        super().__init__()
        self.liif, self.scale = copy.deepcopy(liif), scale

    def forward(self, features: Tensor) -> Tensor:
        return self.liif(features, self.scale)
