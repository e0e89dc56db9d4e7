"""How much of one encoder's features another one's say, and how much of that any encoder, or the image, would say.

A linear map from the features of encoder b to those of encoder a explains most of their variance whatever b has
learned, because both pass the image on. So the same regression is made from what learned nothing: the pixels of a
3 x 3 and a 7 x 7 window of the LR image, and the features of an untrained encoder. And it is asked what b adds to
them: with the pixels among the predictors the share of what they leave that is explained on top,

    beyond = 1 - error(pixels and features) / error(pixels),

on crops held out from the fit. The estimator is ours.
"""

import pandas as pd
import torch
from torch import Tensor

from igconv.analysis import ridge
from igconv.analysis.residual import SIDE, inside, windows
from igconv.conversion import closed_form
from igconv.conversion.sums import normal_equations
from igconv.data.images import to_float

SIDES = (3, SIDE)
TRAINED, UNTRAINED = "the other encoder", "untrained encoder"
PIXELS = tuple(f"{side} x {side} pixels" for side in SIDES)
COLUMNS = ("family", "model_a", "model_b", "scale_a", "scale_b", "predictor", "explained",
           *(f"beyond_{side}x{side}" for side in SIDES))  # fmt: skip


def maps(family: str, a: tuple, b: tuple, untrained, scenes: Tensor, side: int, device="cpu") -> pd.DataFrame:
    """`COLUMNS`: shares of the variance of a's features on held-out crops, a row per predictor.

    Args:
        a, b: (name, `SuperResolver`, scale) as in `igconv.analysis.alignment.align`: a's features are predicted from
            b's, on LR crops of b's scale.
        untrained: a `SuperResolver` of the same architecture that learned nothing.
        scenes, side: as in `igconv.analysis.ridge.transfer`.
    """
    (name_a, model_a, scale_a), (name_b, model_b, scale_b) = a, b
    lr, _ = ridge.pairs(scenes, scale_b, side)
    image = to_float(lr)
    flat = lambda z: inside(z, image).permute(0, 2, 3, 1).flatten(1, 2).double()  # noqa: E731
    y = flat(ridge.features(model_a, lr, device))
    known = {
        TRAINED: flat(ridge.features(model_b, lr, device)),
        UNTRAINED: flat(ridge.features(untrained, lr, device)),
    }
    pixels = dict(zip(PIXELS, (_pixels(image, s).unflatten(0, (len(lr), -1)) for s in SIDES), strict=True))
    facts = dict(family=family, model_a=name_a, model_b=name_b, scale_a=scale_a, scale_b=scale_b)
    explained = {name: _explained(x, y) for name, x in {**known, **pixels}.items()}
    rows = []
    for name, x in {**known, **pixels}.items():
        beyond = {
            f"beyond_{s}x{s}": 1 - (1 - _explained(torch.cat([x, pixels[base]], -1), y)) / (1 - explained[base])
            for s, base in zip(SIDES, PIXELS, strict=True)
            if name in known
        }
        rows.append(facts | dict(predictor=name, explained=explained[name]) | beyond)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _pixels(image: Tensor, side: int) -> Tensor:
    """What a filter of ``side`` sees at the pixels that `inside` keeps."""
    more = (SIDE - side) // 2
    h, w = image.shape[-2:]
    return windows(image[..., more : h - more, more : w - more], side)


def _explained(x: Tensor, y: Tensor) -> float:
    """Share of the variance of y (crops, pixels, q) that x (crops, pixels, p) explains on the last quarter of the
    crops, the ridge weight chosen there."""
    n = ridge.split(len(x))
    parts = (normal_equations(x[part].flatten(0, 1), y[part].flatten(0, 1)) for part in (slice(n), slice(n, None)))
    return closed_form.fit(*parts).explained


def conclusion(table: pd.DataFrame) -> str:
    """What `maps` says, a line per family and scale."""
    if table.empty:
        return "Maps between features: not run."
    lines = []
    for (family, a, b), rows in table.groupby(["family", "scale_a", "scale_b"], sort=False):
        of = rows.set_index("predictor")
        beyond = {name: of[f"beyond_{SIDE}x{SIDE}"][name] for name in (TRAINED, UNTRAINED)}
        lines.append(
            f"{family}, features of x{a} from those of x{b}: {of.explained[TRAINED]:.0%} of the variance explained; an "
            f"untrained encoder's {of.explained[UNTRAINED]:.0%}, 3 x 3 pixels {of.explained[PIXELS[0]]:.0%}, 7 x 7 "
            f"{of.explained[PIXELS[1]]:.0%}. Of what 7 x 7 pixels leave, {beyond[TRAINED]:.0%}; an untrained encoder's "
            f"{beyond[UNTRAINED]:.0%}."
        )
    return "\n".join(lines)
