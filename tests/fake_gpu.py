"""A GPU that computes nothing: models on fake CUDA tensors, and modes that watch what a step dispatches."""

import collections
import traceback
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igconv.data import resize
from igconv.models import hypernetwork

DEVICE = "cuda:0"
# Operations whose result is a value on the host: each of them waits for the device.
HOST_READS = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select", "_unique2", "unique_dim"}
# Operations that only make or look at memory, and launch nothing.
_NO_KERNEL = {
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "_reshape_alias",
    "_unsafe_view", "lift_fresh", "set_",
}  # fmt: skip


@contextmanager
def fake_gpu():
    """Within, tensors made on "cuda" are fake ones; what the package keeps between calls is forgotten."""
    kept = (hypernetwork._subpixel_centres, hypernetwork._joint_grid, resize._weights)
    for function in kept:
        function.cache_clear()
    stays = mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)  # which it cannot do with fake weights
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.set_multithreading_enabled(False), stays:
            yield
    finally:
        for function in kept:
            function.cache_clear()


def on_fake_gpu(module: nn.Module) -> nn.Module:
    """The module with fake tensors of the same shapes and strides in the place of its own; called within `fake_gpu`."""
    made = {}

    def fake(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)

    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = made.setdefault(p, nn.Parameter(fake(p), requires_grad=p.requires_grad))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer)
    return module


@contextmanager
def autocast(device: str = "cuda", enabled: bool = True):
    """``torch.autocast`` to bfloat16, which switches itself off for "cuda" where there is none."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, enabled)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def fabric(device: str = DEVICE, half: bool = False) -> SimpleNamespace:
    """What a training step asks of Lightning Fabric, on one device."""
    return SimpleNamespace(
        device=torch.device(device),
        world_size=1,
        strategy=SimpleNamespace(precision=SimpleNamespace()),
        setup=lambda model, adam: (_marked(model), adam),
        autocast=lambda: autocast(torch.device(device).type) if half else nullcontext(),
        backward=lambda loss: loss.backward(),
    )


def _marked(model: nn.Module) -> nn.Module:
    model.mark_forward_method = lambda name: None
    return model


class Count(TorchDispatchMode):
    """``kernels[name]``: how often an operation was dispatched that launches something; a convolution is one."""

    def __init__(self):
        super().__init__()
        self.kernels = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if not func.is_view and name not in _NO_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):
    """One step as a CUDA graph would see it.

    Attributes:
        host_reads: (operation, line of igconv) of every value that was read on the host.
        read: (address, bytes) of the memory that was there before the step and that it reads; a replay reads the same.
    """

    def __init__(self, inputs=()):
        super().__init__()
        self.host_reads, self.read = [], set()
        self._inputs = {x.untyped_storage()._cdata for x in inputs}
        self._made = {}  # kept, so that no address comes twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if name in HOST_READS:
            lines = [f"{f.filename.rpartition('igconv/')[2]}:{f.lineno}" for f in traceback.extract_stack()
                     if "/igconv/" in f.filename]  # fmt: skip
            self.host_reads.append((name, lines[-1] if lines else ""))
        before = [x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in before}
        for storage in before:
            if storage._cdata not in self._made and storage._cdata not in self._inputs:
                self.read.add((storage.data_ptr(), storage.nbytes()))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known:
                self._made[x.untyped_storage()._cdata] = x.untyped_storage()
        return result
