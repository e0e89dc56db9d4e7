"""Every figure is drawn from a small frame; files are whole and repeatable."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from igconv import InputError
from igconv.analysis import correlation, similarity, spectrum
from igconv.reporting import figures

RUNS = [("a-x2", "spconv", ""), ("a-x3", "spconv", ""), ("b", "igconv+", ""), ("c", "igconv+", "no_fft")]


def rows():
    rng = np.random.default_rng(0)
    table = [
        dict(run=run, upsampler=upsampler, variant=variant, dataset="d", image=image, scale=scale, seed=0,
             psnr_y_db=30 - scale + i + rng.normal() * 0.1)
        for i, (run, upsampler, variant) in enumerate([("bicubic", "bicubic", ""), *RUNS])
        for scale in (2, 3) if not run.startswith("a-x") or run == f"a-x{scale}"
        for image in "uvw"
    ]  # fmt: skip
    return pd.DataFrame(table)


def ablated():
    kinds = [("IGConv+", "frequency loss", 0.2), ("IGConv", "IGSample", np.nan)]
    return pd.DataFrame([
        dict(within=within, ingredient=ingredient, scale=scale, dataset=dataset, difference_db=value + more,
             low_db=value - 0.1, high_db=value + 0.2)
        for within, ingredient, value in kinds for scale in (2, 3) for dataset, more in (("all", 0.0), ("Set5", 0.3))
    ])  # fmt: skip


def records():
    curve = pd.DataFrame(dict(step=[10, 20, 30], l1=[0.3, 0.2, 0.1], psnr_y_db=[np.nan, 20, 21]))
    scales = ("2", "3", "2-3-4", "2-3-4")
    return pd.concat([curve.assign(run=r, upsampler=u, variant=v, train_scales=s)
                      for (r, u, v), s in zip(RUNS, scales, strict=True)])  # fmt: skip


def bands():
    rng = np.random.default_rng(1)
    hr = torch.from_numpy(rng.integers(0, 256, (3, 48, 48), dtype=np.uint8))
    table = spectrum.band_errors(hr.flip(1), hr, 2).assign(dataset="d", image="i", scale=2)
    return pd.concat([table.assign(run=r, upsampler=u, variant=v) for r, u, v in RUNS[1:]])


def band_differences():
    table = pd.concat([bands().assign(seed=0), bands().assign(seed=0, image="j", relative_error_db=-1.0)])
    return spectrum.differences(table, ["b"])


def learning():
    tables = [bands().assign(seed=0, step=step) for step in (0, 1, 4, 20)]
    return pd.concat([t.assign(relative_error_db=-i * t.index.to_numpy() / 2.0) for i, t in enumerate(tables)])


def unseen_summary():
    clamps = [("direct", 4), ("direct", 8), ("x4, then bicubic", pd.NA)]
    table = [dict(upsampler=u, variant=v, method=m, max_scale=c, scale=s, against="bicubic", difference_db=1 / s,
                  low_db=0.5 / s, high_db=2 / s)
             for u, v in (("igconv", ""), ("spconv", "published")) for m, c in clamps for s in (4, 5, 8)]  # fmt: skip
    return pd.DataFrame(table).astype({"max_scale": "Int64"})


def cka():
    torch.manual_seed(0)
    values = torch.stack(
        [torch.stack([similarity.centred_gram(torch.randn(8, 5)) for _ in range(2)]) for _ in range(3)]
    )
    grams = {"x2": similarity.Grams(("first", "last"), values), "x3": similarity.Grams(("first", "last"), values)}
    return similarity.compare(grams, [("x2", "x3"), ("x2", "x2")], "test", draws=20)


def kernels(scale):
    return torch.randn(3 * scale**2, 8, 3, 3, generator=torch.Generator().manual_seed(scale))


def correlations():
    pairs = (("SPConv", 2, "SPConv", 3), ("IGConv", 2, "IGConv", 4))
    tables = [correlation.compare(a, kernels(r), r, b, kernels(s), s, permutations=9) for a, r, b, s in pairs]
    return pd.concat(tables)


def transfer():
    rows = [("x2", 2, "refitted"), ("x2", 2, "as trained"), ("x3", 3, "refitted"), ("IGConv", 0, "refitted"),
            ("untrained edsr 1", 0, "refitted"), ("", 0, "bicubic")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["encoder", "encoder_scale", "head"])
    return table.assign(
        family="f",
        target_scale=2,
        difference_db=range(-3, 3),
        low_db=range(-4, 2),
        high_db=range(-2, 4),
        trained=[True, True, True, True, False, True],
    )


def aligned():
    kinds = [
        (m, c, k) for m in ("fitted", "images shuffled") for c in ("kernel", "output") for k in ("kept", "removed")
    ]
    table = pd.DataFrame(kinds, columns=["alignment", "compared", "constant"])
    pair = dict(model_a="A", model_b="A", scale_a=2, scale_b=3)
    psnr = pd.DataFrame(dict(head=["true", "predicted", "bicubic"], difference_db=[0, -0.3, -3], low_db=[0, -0.4, -4],
                             high_db=[0, -0.2, -2]))  # fmt: skip
    return table.assign(value=0.5, null_mean=0, null_q95=0.1, permutations=99, **pair), psnr.assign(**pair)


def continuity():
    table = pd.DataFrame(dict(channel=[0, 1, 0, 1], scale=[2, 2, 32, 32], correlation=[0.9, 0.8, 1, 1]))
    return table.assign(model="IGConv", total_variation=[1, 2, 3, 4], total_variation_shuffled=[2, 3, 30, 40.0])


def pattern_rows():
    index = np.indices((2, 3, 3)).reshape(3, -1)
    table = pd.DataFrame(dict(zip(("channel", "sub_row", "sub_col"), index, strict=True))).assign(value=index.sum(0))
    return pd.concat([table.assign(model=m, scale=3) for m in ("A", "B")])


def costs():
    names = ("SPConv", "SPConv+", "IGConv", "IGConv+")
    table = pd.DataFrame(dict(upsampler=names, form=["as trained"] * 2 + ["instantiated"] * 2, latency_ms=[1, 9, 1, 4],
                              parameters=[7e3, 1.5e5, 7e3, 3.5e4], peak_memory_mib=[77, 500, 77, 200]))  # fmt: skip
    return table.assign(device="abacus", params_k=1.0, memory_mb=70)


def budget():
    return pd.DataFrame(dict(upsampler=["spconv", "igconv"], variant="", models=[3, 1], training_seconds=[9, 4.0],
                             images=[300, 100], stored_parameters=[3e5, 2e5]))  # fmt: skip


FIGURES = {
    "training_curves": lambda: figures.training_curves(records()),
    "psnr_gain": lambda: figures.psnr_gain(rows()),
    "ablation": lambda: figures.ablation(ablated()),
    "image_grid": lambda: figures.image_grid([("one", torch.zeros(3, 4, 4, dtype=torch.uint8))] * 3, columns=2),
    "cka_maps": lambda: figures.cka_maps(cka()),
    "cka_depth": lambda: figures.cka_depth(cka()),
    "transfer_loss": lambda: figures.transfer_loss(transfer()),
    "alignment_bars": lambda: figures.alignment_bars(*aligned()),
    "pattern_continuity": lambda: figures.pattern_continuity(continuity()),
    "kernel_patterns": lambda: figures.kernel_patterns(pattern_rows()),
    "correlation_bars": lambda: figures.correlation_bars(correlations()),
    "band_errors": lambda: figures.band_errors(bands()),
    "band_differences": lambda: figures.band_differences(band_differences(), "IGConv+"),
    "band_learning": lambda: figures.band_learning(learning()),
    "band_times": lambda: figures.band_times(spectrum.time_to_threshold(learning())),
    "unseen_scales": lambda: figures.unseen_scales(unseen_summary()),
    "efficiency_bars": lambda: figures.efficiency_bars(costs(), costs()),
    "generation_time": lambda: figures.generation_time(
        pd.DataFrame(dict(scale=[2, 4], generation_ms=[1, 4], device="abacus", threads=1, model="m"))
    ),
    "training_budget": lambda: figures.training_budget(budget()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_with_names_on_its_axes(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    png = figure._repr_png_()
    assert png.startswith(b"\x89PNG")
    if name != "image_grid":
        assert figure.get_supxlabel() or all(axis.get_ylabel() or axis.get_xlabel() for axis in figure.axes[:1])


def test_equal_figures_give_equal_files(tmp_path):
    for folder in ("one", "two"):
        figures.save(FIGURES["ablation"](), tmp_path / folder, "f")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["f.pdf", "f.png"]
    for name, start in (("f.png", b"\x89PNG"), ("f.pdf", b"%PDF")):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first.startswith(start)
        assert first == second
        assert b"CreationDate" not in first


@pytest.mark.parametrize("name", ["cka_maps", "psnr_gain", "image_grid"])
def test_a_saved_figure_is_whole(tmp_path, name):
    """Panels lie where those of a shown figure do; all is inside, with white margins of a fifth of an inch at most."""
    figure, drawn = FIGURES[name](), FIGURES[name]()
    figures.save(figure, tmp_path, name)
    drawn._repr_png_()
    for ours, theirs in zip(figure.axes, drawn.axes, strict=True):
        assert np.allclose(ours.get_position().bounds, theirs.get_position().bounds, atol=0.03)
    with Image.open(tmp_path / f"{name}.png") as picture:
        ink = np.asarray(picture.convert("L")) < 250
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    margins = rows[0], columns[0], ink.shape[0] - 1 - rows[-1], ink.shape[1] - 1 - columns[-1]
    assert all(10 <= margin <= 40 for margin in margins), margins


def test_figures_leave_no_trace():
    import matplotlib as mpl
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    FIGURES["psnr_gain"]()
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


def test_ablation_draws_what_was_run_at_its_mean():
    axes = figures.ablation(ablated()).axes
    assert [axis.get_title() for axis in axes] == ["x2", "x3"]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["frequency loss in IGConv+"]
    (mean,) = axes[0].containers
    assert mean.lines[0].get_xdata() == [0.2]
    (ends,) = mean.lines[2][0].get_segments()
    assert ends[:, 0].tolist() == pytest.approx([0.1, 0.4])
    assert [line.get_xdata()[0] for line in axes[0].lines].count(0.2 + 0.3) == 1, "the one set is a dot"


def test_curves_of_fixed_scales_end_in_their_scale():
    """By the column, whatever a run is called."""
    twice = pd.concat([records(), records().assign(run="again", l1=0.1).query("train_scales == '2'")])
    _, fixed, _, several = figures.training_curves(twice).axes
    assert [text.get_text() for text in fixed.texts] == ["x2", "x3"], "once, however many curves end there"
    assert not several.texts, "means over scales have panels of their own"
    assert len(figures.training_curves(records().query("train_scales == '2-3-4'")).axes) == 2


def test_curves_of_one_colour_differ_by_their_lines():
    both = pd.concat([records(), records().query("train_scales == '2'").assign(run="a third", variant="third")])
    legend = figures.training_curves(both).axes[1].get_legend()
    first, second = legend.get_lines()
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()


def test_latencies_of_two_machines_are_relative():
    """A CPU's milliseconds beside a GPU's would say nothing about upsamplers."""
    slow = costs()
    slow.loc[:, "latency_ms"] = slow.latency_ms * 1000
    ours, paper = figures.efficiency_bars(slow, costs()).axes[0].containers
    assert [bar.get_height() for bar in ours] == pytest.approx([bar.get_height() for bar in paper], nan_ok=True)
    assert ours[0].get_height() == 1


def test_rows_of_panels_are_chosen_by_label():
    figure = figures.band_differences(band_differences(), "IGConv+", [["SPConv", "LIIF"], ["SPConv", "SPConv"]])
    assert [len(axis.containers) for axis in figure.axes] == [1, 1]


def test_gain_is_the_mean_difference_to_bicubic():
    table = rows()
    axis = figures.psnr_gain(table).axes[0]
    x2 = table[table.scale == 2].groupby("run").psnr_y_db.mean()
    expected = [x2[run] - x2["bicubic"] for run in ("a-x2", "b", "c")]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx(expected)
    assert [t.get_text() for t in axis.get_xticklabels()] == ["SPConv", "IGConv+", "IGConv+ − frequency loss"]


def test_styles_are_one_per_run_kind():
    assert figures.style("spconv", "third")[0] == "SPConv (a third of the steps)"
    _, colours = figures.labelled(rows())
    assert list(colours) == ["bicubic", "SPConv", "IGConv+", "IGConv+ − frequency loss"]
    assert len(set(colours.values())) == 4


def test_bad_input_is_named():
    with pytest.raises(InputError, match="no run 'bicubic'"):
        figures.psnr_gain(rows().query("run != 'bicubic'"))
    for nothing in (ablated().head(0), ablated().tail(2), pd.DataFrame()):
        with pytest.raises(InputError, match="of no ingredient"):
            figures.ablation(nothing)
    with pytest.raises(InputError, match="nothing to draw"):
        figures.training_curves(records().head(0))
    with pytest.raises(InputError, match="none of the kinds"):
        figures.band_differences(band_differences(), "IGConv+", [["LIIF"]])
    with pytest.raises(InputError, match="compared with 'x4'"):
        figures.unseen_scales(unseen_summary(), "x4")
    with pytest.raises(InputError, match="no pair"):
        figures.cka_maps(cka().head(0))
