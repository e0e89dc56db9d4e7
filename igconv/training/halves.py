"""bfloat16 copies of weights, cast all at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class HalfWeights:
    """bfloat16 copies of the weights of a network's convolutions and linear maps, for one forward and backward pass.

    Autocast makes the same copies, one kernel each, and casts each gradient back by another; here one call does all.
    The copies are the same tensors at every step, as a recorded step needs them.
    """

    def __init__(self, network: nn.Module):
        # Modules of exactly these types use their weights for the operations that autocast would cast them for.
        self.places = [
            (module, name)
            for module in network.modules()
            if type(module) in (nn.Conv2d, nn.Linear)
            for name in ("weight", "bias")
            if getattr(module, name) is not None
        ]
        self.copies: dict[nn.Parameter, nn.Parameter] = {}  # of each weight, also of one that two modules share
        for module, name in self.places:
            weight = getattr(module, name)
            copy = weight.detach().to(torch.bfloat16)
            self.copies.setdefault(weight, nn.Parameter(copy, requires_grad=weight.requires_grad))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The network computes with fresh copies; gradients found in the block are the weights' in the end."""
        weights = [getattr(module, name) for module, name in self.places]
        with torch.no_grad():
            if self.copies:
                torch._foreach_copy_(list(self.copies.values()), list(self.copies))
        try:
            for (module, name), weight in zip(self.places, weights, strict=True):
                setattr(module, name, self.copies[weight])
            yield
        finally:
            for (module, name), weight in zip(self.places, weights, strict=True):
                setattr(module, name, weight)
        self._hand_over()

    @torch.no_grad()
    def _hand_over(self) -> None:
        found = [(weight, copy.grad) for weight, copy in self.copies.items() if copy.grad is not None]
        if not found:
            return
        gradients = [torch.empty_like(weight) for weight, _ in found]
        torch._foreach_copy_(gradients, [gradient for _, gradient in found])
        for (weight, _), gradient in zip(found, gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
            self.copies[weight].grad = None
