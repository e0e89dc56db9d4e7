"""CUDA graphs: a training step launched as one piece.

A small network's step is some hundred short kernels, and launching them one by one takes longer than running them.
A step with the same combination of scales has the same kernels, so each combination is recorded once and replayed.
"""

from collections.abc import Callable

import torch

from igconv.training.feed import Sent


class StepGraphs:
    """``function(sent)`` with fixed shapes per combination of scales, replayed on copies of its inputs.

    The function must not wait for the device, must leave no gradients behind, and reads everything that changes
    between steps (learning rate, step number) from tensors. The first step of a combination runs as it is, which
    fills all caches; the second is recorded. Combinations beyond ``limit`` run as they are.
    """

    def __init__(self, function: Callable[[Sent], None], limit: int = 64):
        self.function, self.limit = function, limit
        self.seen: set[tuple[int, ...]] = set()
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Sent]] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def __call__(self, sent: Sent) -> None:
        if sent.scales not in self.graphs:
            if sent.scales not in self.seen or len(self.graphs) >= self.limit:
                self.seen.add(sent.scales)
                # On the stream of the recordings: autograd keeps the stream of a parameter's first gradient.
                self.stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self.stream):
                    self.function(sent)
                torch.cuda.current_stream().wait_stream(self.stream)
                return
            self.graphs[sent.scales] = self._record(sent)
        graph, inputs = self.graphs[sent.scales]
        for mine, new in zip(inputs.tensors, sent.tensors, strict=True):
            mine.copy_(new)
        graph.replay()

    def _record(self, sent: Sent) -> tuple[torch.cuda.CUDAGraph, Sent]:
        inputs = Sent(sent.scales, tuple(tensor.clone() for tensor in sent.tensors))
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded: the feed's may pin memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            self.function(inputs)
        return graph, inputs
