"""The explorer of the notebook `explore`: controls beside pictures, in JupyterLab.

Everything that is computed is in `igconv.analysis.explored`; here controls are tied to it. What follows a slider is
small PNGs in HTML, because a figure takes longer to draw than the models to run. Without a browser (papermill, a
printed notebook) the figures of the first view, of `igconv.reporting.figures`, stand in the notebook.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from igconv.analysis import correlation, explored
from igconv.analysis.explored import Panel, View
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
COMMITTED = "cpu"  # the profile whose weights a clone has
LABELS = "95px"  # room for what stands left of a control


def _control(kind: type, text: str, **options) -> widgets.Widget:
    return kind(description=text, style=dict(description_width=LABELS), layout=widgets.Layout(width="auto"), **options)


def _slider(kind: type, text: str, low, high, step, value) -> widgets.Widget:
    # A redraw per position while a slider is dragged would lag behind it.
    return _control(kind, text, min=low, max=high, step=step, value=value, continuous_update=False)


def _column(*controls: widgets.Widget) -> widgets.VBox:
    """Controls under each other; where a window is narrow, columns wrap."""
    return widgets.VBox(controls, layout=widgets.Layout(flex="1 1 265px", min_width="265px"))


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
        self.image = _control(widgets.Dropdown, "image", options=list(self.pictures))
        self.file = _control(widgets.Text, "or a file", placeholder="path, then Enter", continuous_update=False)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="or upload one",
                                         layout=widgets.Layout(width="auto"))  # fmt: skip
        self.shown_models = _control(widgets.SelectMultiple, "models", options=names, value=names,
                                     rows=min(6, len(names)))  # fmt: skip
        self.scale = _slider(widgets.IntSlider, "scale", SCALES[0], SCALES[-1], 1, view.scale)
        self.column = _slider(widgets.FloatSlider, "left to right", 0, 1, 0.01, view.column)
        self.row = _slider(widgets.FloatSlider, "top to bottom", 0, 1, 0.01, view.row)
        self.side = _slider(widgets.IntSlider, "window, LR px", 8, explored.CROP, 4, view.side)
        self.show = widgets.ToggleButtons(options=explored.SHOWN, value=view.show, style=dict(button_width="84px"))
        self.known = widgets.Checkbox(value=view.known, description="make it small first, and measure", indent=False)
        self.igsample = widgets.Checkbox(value=view.igsample, description="IGSample", indent=False)
        self.dihedral = widgets.Checkbox(value=view.dihedral, description="dihedral averaging", indent=False)
        self.kernels_of = _control(widgets.Dropdown, "kernels of", options=names)
        self.channel = _slider(widgets.IntSlider, "channel", 0, 11, 1, 0)
        self.said, self.compared = widgets.HTML(), widgets.HTML()
        self.kernels, self.offsets = (widgets.HTML() for _ in range(2))
        kernels = widgets.VBox([widgets.HBox([_column(self.kernels_of), _column(self.channel)]), self.kernels])
        self.below = widgets.Tab([kernels, self.offsets], titles=["kernels", "IGSample's offsets"])
        for control in (self.image, self.shown_models, self.scale, self.column, self.row, self.side, self.show,
                        self.known, self.igsample, self.dihedral):  # fmt: skip
            control.observe(lambda change: self.draw(), "value")
        for control in (self.kernels_of, self.channel):
            control.observe(lambda change: self.draw_kernels(), "value")
        self.below.observe(lambda change: self._trying(self._draw_offsets), "selected_index")
        self.file.observe(lambda change: self._trying(self._add_file), "value")
        self.upload.observe(lambda change: self._trying(self._add_upload), "value")
        self.draw()
        self.draw_kernels()
        controls = widgets.HBox([
            _column(self.image, self.file, self.upload, self.shown_models),
            _column(self.scale, self.column, self.row, self.side),
            _column(self.show, self.known, self.igsample, self.dihedral),
        ], layout=widgets.Layout(flex_flow="row wrap"))  # fmt: skip
        self.box = widgets.VBox([controls, self.said, self.compared, self.below])

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
        self._trying(lambda: setattr(self.kernels, "value", _picture(_png(self.kernel_figure()))))

    def _draw(self) -> None:
        models, view = self.chosen(), self.now()
        panels = explored.panels(models, self.pictures[self.image.value], view)
        self.compared.value = gallery(panels)
        self.igsample.disabled = not any(explored.has_igsample(model) for model in models.values())
        self.dihedral.disabled = not any(explored.has_dihedral(model) for model in models.values())
        self.said.value = "<br>".join(map(html.escape, self._remarks(panels, view)))
        self._draw_offsets()

    def _remarks(self, panels: Sequence[Panel], view: View) -> list[str]:
        remarks = []
        left_out = [name for name, model in self.chosen().items() if not explored.serves(model, view.scale)]
        if left_out:
            remarks.append(f"Not made for ×{view.scale}: {', '.join(left_out)}.")
        if view.show == "error" and not view.known:
            remarks.append("An error needs the HR image: let the image be made small first.")
        elif view.show == "error":
            largest = max(float(panel.pixels.max()) for panel in panels)
            remarks.append(f"Error: black is none, the brightest {largest:.0f} of 255 grey levels.")
        elif view.show == "spectrum":
            remarks.append("Spectrum: the lowest frequencies are in the middle; brighter is more, on a log scale.")
        return remarks

    def _draw_offsets(self) -> None:
        """Only while they are looked at: they are a figure, which takes its time."""
        if self.below.selected_index == 1:
            arrows = self.offset_figure()
            self.offsets.value = _picture(_png(arrows)) if arrows else "None of the chosen models has an IGSample."

    def _trying(self, work: Callable[[], None]) -> None:
        """What a person got wrong is said beside the pictures; in a callback of a widget nobody would see it."""
        try:
            work()
        except InputError as error:
            self.said.value = f"<b>{html.escape(str(error))}</b>"

    def _add_file(self) -> None:
        if self.file.value:
            self._add(self.file.value, _colours(images.read_picture(self.file.value)))

    def _add_upload(self) -> None:
        for upload in self.upload.value:
            self._add(upload["name"], _colours(_opened(upload["name"], bytes(upload["content"]))))

    def _add(self, name: str, picture: Tensor) -> None:
        """The picture is chosen, once: of new options a dropdown takes the first."""
        same_name = self.image.value == name
        self.pictures = {name: picture} | {old: pixels for old, pixels in self.pictures.items() if old != name}
        self.image.options = list(self.pictures)
        if same_name:
            self.draw()


def gallery(panels: Sequence[Panel]) -> str:
    """The panels as HTML in rows of at most five, as even as they can be; errors and spectra share one range."""
    maps = [panel.pixels for panel in panels if panel.pixels.ndim == 2]
    low, high = (min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)) if maps else (0.0, 1.0)
    cells = []
    for panel in panels:
        measured = "" if panel.psnr_y_db is None else f"{panel.psnr_y_db:.2f} dB, SSIM {panel.ssim_y:.4f}"
        cells.append(
            f'<div><img style="width: 100%; image-rendering: pixelated" src="{_address(_coloured(panel, low, high))}" '
            f'alt="{html.escape(panel.title)}"><div style="line-height: 1.3"><b>{html.escape(panel.title)}</b>'
            f"<br>{measured}</div></div>"
        )
    rows = -(-len(panels) // 5)
    columns = -(-len(panels) // rows)
    style = f"display: grid; grid-template-columns: repeat({columns}, 1fr); gap: 8px"
    return f'<div style="{style}">{"".join(cells)}</div>'


def _coloured(panel: Panel, low: float, high: float) -> bytes:
    """PNG of a panel."""
    if panel.pixels.ndim == 3:
        pixels = panel.pixels.permute(1, 2, 0).numpy()
    else:
        scaled = (panel.pixels.numpy() - low) / max(high - low, 1e-9)
        pixels = mpl.colormaps["magma"](scaled, bytes=True)[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _picture(png: bytes) -> str:
    """In its own size: enlarged, a figure blurs."""
    return f'<img src="{_address(png)}" style="max-width: 100%">'


def profile_to_show(profile: str) -> str:
    """The profile, or the one whose weights come with a clone where none of its own runs is trained."""

    def has_models(name: str) -> bool:
        return any(run_weights.is_trained(run) for run in runs_of(name).values())

    return COMMITTED if has_models(COMMITTED) and not has_models(profile) else profile


def study_models(profile: str) -> dict[str, SuperResolver]:
    """The main models of a profile that are trained, by the names people know; one seed of each."""
    found = {}
    for run in runs_of(profile).values():
        if run.is_main and run_weights.is_trained(run):
            scales = "" if len(run.scales) > 1 else f" ×{run.scales[0]}"
            found.setdefault(f"{run_label(run.upsampler, run.variant)}{scales} ({profile})", run)
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
