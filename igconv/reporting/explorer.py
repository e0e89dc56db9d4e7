"""The explorer of the notebook `explore`: controls beside pictures, in JupyterLab.

Everything that is computed is in `igconv.analysis.explored`, everything that is drawn in `igconv.reporting.figures`;
here controls are tied to both. Without a browser (papermill, a printed notebook) the pictures of the first view stand
in the notebook as they are.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from igconv.analysis import correlation, explored
from igconv.analysis.explored import View
from igconv.data import images
from igconv.data.images import Picture
from igconv.errors import InputError
from igconv.models import run_weights
from igconv.models.super_resolver import SuperResolver
from igconv.reporting import figures
from igconv.study.labels import run_label
from igconv.study.runs import runs_of

SCALES = range(2, 9)
KERNELS = (2, 3, 4, 8)  # scales whose kernels are shown beside each other
LONG = dict(description_width="initial")


def _slider(kind: type, text: str, low, high, step, value) -> widgets.Widget:
    # A redraw per position while a slider is dragged would lag behind it.
    return kind(description=text, min=low, max=high, step=step, value=value, continuous_update=False, style=LONG)


@dataclass
class Explorer:
    """Controls and pictures for models and images; ``box`` is what a notebook shows.

    Args:
        models: name -> model, all in eval mode.
        pictures: name -> uint8 (3, H, W); a person can add files and uploads.
        view: what is shown first.
    """

    models: Mapping[str, SuperResolver]
    pictures: dict[str, Tensor]
    view: View = field(default_factory=View)

    def __post_init__(self):
        if not self.models or not self.pictures:
            raise InputError("the explorer needs a model and an image")
        names, view = list(self.models), self.view
        self.image = widgets.Dropdown(options=list(self.pictures), description="image", style=LONG)
        self.file = widgets.Text(description="or a file", placeholder="path, then Enter", continuous_update=False)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="upload")
        self.shown_models = widgets.SelectMultiple(options=names, value=names, description="models",
                                                   rows=min(6, len(names)))  # fmt: skip
        self.scale = _slider(widgets.IntSlider, "scale", SCALES[0], SCALES[-1], 1, view.scale)
        self.column = _slider(widgets.FloatSlider, "left to right", 0, 1, 0.01, view.column)
        self.row = _slider(widgets.FloatSlider, "top to bottom", 0, 1, 0.01, view.row)
        self.side = _slider(widgets.IntSlider, "window, LR px", 8, explored.CROP, 4, view.side)
        self.show = widgets.ToggleButtons(options=explored.SHOWN, value=view.show, description="show")
        self.known = widgets.Checkbox(value=view.known, description="the image is HR: make it small, and measure")
        self.igsample = widgets.Checkbox(value=view.igsample, description="IGSample")
        self.dihedral = widgets.Checkbox(value=view.dihedral, description="dihedral averaging")
        self.kernels_of = widgets.Dropdown(options=names, description="kernels of", style=LONG)
        self.channel = _slider(widgets.IntSlider, "channel", 0, 11, 1, 0)
        self.said = widgets.HTML()
        self.compared, self.kernels, self.offsets = (widgets.Image(format="png") for _ in range(3))
        for control in (self.image, self.shown_models, self.scale, self.column, self.row, self.side, self.show,
                        self.known, self.igsample, self.dihedral):  # fmt: skip
            control.observe(lambda change: self.draw(), "value")
        for control in (self.kernels_of, self.channel):
            control.observe(lambda change: self.draw_kernels(), "value")
        self.file.observe(lambda change: self._trying(self._add_file), "value")
        self.upload.observe(lambda change: self._trying(self._add_upload), "value")
        self.draw()
        self.draw_kernels()
        left = widgets.VBox([self.image, self.file, self.upload, self.shown_models, self.scale, self.column, self.row,
                             self.side, self.show, self.known, self.igsample, self.dihedral])  # fmt: skip
        below = widgets.VBox([widgets.HBox([self.kernels_of, self.channel]), self.kernels])
        self.box = widgets.VBox([widgets.HBox([left, widgets.VBox([self.compared, self.said])]), self.offsets, below])

    def now(self) -> View:
        """The view that the controls say."""
        return View(self.scale.value, self.column.value, self.row.value, self.side.value, self.known.value,
                    self.show.value, self.igsample.value, self.dihedral.value)  # fmt: skip

    def chosen(self) -> dict[str, SuperResolver]:
        return {name: self.models[name] for name in self.shown_models.value}

    def figure(self):
        """The comparison for `now`."""
        return figures.explored(explored.panels(self.chosen(), self.pictures[self.image.value], self.now()))

    def offset_figure(self):
        """IGSample's offsets of the first chosen model that has one, or None."""
        for model in self.chosen().values():
            if found := explored.offsets(model, self.pictures[self.image.value], self.now()):
                return figures.sampling_offsets(*found)
        return None

    def kernel_figure(self):
        """The kernel of one channel along the scale."""
        name = self.kernels_of.value
        scales = [scale for scale in KERNELS if explored.serves(self.models[name], scale)]
        table = correlation.pattern_table(name, self.models[name], scales, self.channel.value + 1)
        return figures.kernel_along_scale(table[table.channel == self.channel.value])

    def draw(self) -> None:
        self._trying(self._draw)

    def draw_kernels(self) -> None:
        self._trying(lambda: setattr(self.kernels, "value", _png(self.kernel_figure())))

    def _draw(self) -> None:
        self.compared.value = _png(self.figure())
        arrows = self.offset_figure()
        self.offsets.value = _png(arrows) if arrows else b""
        left_out = [name for name, model in self.chosen().items() if not explored.serves(model, self.scale.value)]
        self.said.value = f"not made for ×{self.scale.value}: {', '.join(left_out)}" if left_out else ""

    def _trying(self, work: Callable[[], None]) -> None:
        """What a person got wrong is said beside the pictures; in a callback of a widget nobody would see it."""
        try:
            work()
        except InputError as error:
            self.said.value = f"<b>{error}</b>"

    def _add_file(self) -> None:
        if self.file.value:
            self._add(self.file.value, _colours(images.read_picture(self.file.value)))

    def _add_upload(self) -> None:
        for upload in self.upload.value:
            self._add(upload["name"], _colours(_opened(upload["name"], bytes(upload["content"]))))

    def _add(self, name: str, picture: Tensor) -> None:
        self.pictures[name] = picture
        self.image.options = list(self.pictures)
        self.image.value = name


def study_models(profile: str) -> dict[str, SuperResolver]:
    """The main models of a profile that are trained, by the names people know; one seed of each."""
    found = {}
    for run in runs_of(profile).values():
        if run.is_main and run_weights.is_trained(run):
            scales = "" if len(run.scales) > 1 else f" ×{run.scales[0]}"
            found.setdefault(f"{run_label(run.upsampler, run.variant)}{scales}, {profile}", run)
    return {name: run_weights.load_run(run) for name, run in found.items()}


def _opened(name: str, content: bytes) -> Picture:
    try:
        return images.picture_of(Image.open(io.BytesIO(content)))
    except OSError:
        raise InputError(f"{name} is not an image, or damaged") from None


def _colours(picture: Picture) -> Tensor:
    """uint8 (3, H, W) to look at: without alpha, 8 bits, grey as equal colours."""
    pixels = picture.pixels[..., :1] if picture.pixels.shape[2] < 3 else picture.pixels[..., :3]
    pixels = (pixels // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    return torch.from_numpy(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).transpose(2, 0, 1).copy())


def _png(figure) -> bytes:
    return figure._repr_png_()
