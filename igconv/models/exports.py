"""One scale of a model as a file for other programs: an ONNX graph, or a program that PyTorch alone loads.

The hyper-network stays here: kernels are made once and stored as constants (`SuperResolver.instantiate`). Height and
width stay free. What was made is compared with the model at another size before anybody gets it.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from igconv.errors import InputError, reason
from igconv.models.super_resolver import SuperResolver

EXAMPLE, OTHER = (24, 40), (33, 26)  # (H, W): what a graph is made with, and another size that it has to work at
TOLERANCE = 1e-4  # of the range
SUFFIXES = {"onnx": (".onnx",), "torch": (".pt2",), "spandrel": (".safetensors", ".pth")}
INPUT, OUTPUT = "lr", "sr"  # names in the graph
FACTS = "facts.json"  # the facts inside a .pt2, as one of its extra files
NOT_HERE = "{} is not installed; pip install 'igconv[export]'"


def conventions(scale: int) -> dict[str, str]:
    """What whoever runs an exported model has to know of its input and output."""
    return dict(
        scale=str(scale),
        colour_order="RGB",
        range="0 to 1; results may lie outside and are to be clamped",
        layout=f"float32 (1, 3, H, W) -> (1, 3, {scale} H, {scale} W)",
    )


def to_torch(model: SuperResolver, scale: int, facts: Mapping[str, str]) -> tuple[bytes, float]:
    """(content of a .pt2, largest difference to the model): ``torch.export.load(path).module()(lr)``.

    Args:
        model: in eval mode.
        scale: one that the model has.
        facts: stored beside the program, with `conventions`, as JSON under the name `FACTS`.

    Raises InputError for an encoder that cannot be exported for all sizes.
    """
    fixed = _fixed(model, scale)
    program = _program(fixed)
    difference = _compared(program.module(), fixed)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={FACTS: json.dumps({**conventions(scale), **facts})})
    return content.getvalue(), difference


def to_onnx(model: SuperResolver, scale: int, facts: Mapping[str, str]) -> tuple[bytes, float]:
    """(content of an .onnx, largest difference of onnxruntime to the model). Arguments and errors as `to_torch`.

    ``facts`` and `conventions` become the graph's metadata. Needs the extra ``igconv[export]``.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (PyTorch needs it)
    except ImportError as error:
        raise InputError(NOT_HERE.format(error.name or "ONNX")) from None

    fixed = _fixed(model, scale)
    program = _program(fixed)
    with _silence(), _one_line(fixed):
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {2: "height", 3: "width"}},
            verbose=False,
        )
    assert made is not None
    graph = made.model_proto
    onnx.helper.set_model_props(graph, {**conventions(scale), **facts})
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, _compared(lambda lr: torch.from_numpy(session.run([OUTPUT], {INPUT: lr.numpy()})[0]), fixed)


def _fixed(model: SuperResolver, scale: int) -> nn.Module:
    return model.instantiate(scale).cpu().float().eval().requires_grad_(False)


def _program(fixed: nn.Module) -> torch.export.ExportedProgram:
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _silence(), _one_line(fixed):
        return torch.export.export(fixed, (torch.rand(1, 3, *EXAMPLE),), dynamic_shapes=(sides,))


@torch.no_grad()
def _compared(exported: Callable[[Tensor], Tensor], fixed: nn.Module) -> float:
    """Largest difference of an exported model to the model. Raises InputError if that is more than `TOLERANCE`."""
    lr = torch.rand(1, 3, *OTHER, generator=torch.Generator().manual_seed(0))
    with _one_line(fixed):
        difference = (exported(lr) - fixed(lr)).abs().max().item()
    if not difference <= TOLERANCE:
        raise InputError(f"the exported model differs from the model by {difference:.1e} of the range")
    return difference


@contextmanager
def _one_line(model: nn.Module):
    """What PyTorch or onnxruntime raises about a graph, as an InputError of one line that names the encoder."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of many kinds, most of them private
        encoder = type(model.encoder).__name__
        raise InputError(f"{encoder} cannot be exported for images of any size ({reason(error, 160)})") from None


@contextmanager
def _silence():
    """Without what exporters say about their own progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
