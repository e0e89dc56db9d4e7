"""Costs against hand counts."""

import time

import pandas as pd
import pytest
import torch
from torch import nn

from igconv import IGConv, InputError, build_model
from igconv.analysis import efficiency
from igconv.analysis.budget import stored_parameters
from igconv.reporting import figures, tables


def test_flops_of_a_convolution_equal_the_hand_count():
    conv = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    x = torch.rand(1, 5, 10, 12)
    assert efficiency.flops(lambda: conv(x)) == 2 * 10 * 12 * 7 * 5 * 9


def test_peak_memory_counts_tensors_that_live_together():
    def call():
        a = torch.ones(1000)  # 4000 B
        b = a + 1  # 8000 B
        del a
        c = b * 2  # 8000 B: a is gone
        view = c.view(10, 100)  # a view is no memory
        return view.add_(1)

    assert efficiency.allocated_peak(call) == 8000


def test_calls_are_timed_in_turns():
    """As many rounds for each, one after the other; the slow one is the slow one."""
    order = []
    calls = [lambda: order.append("fast"), lambda: (order.append("slow"), time.sleep(0.003))]
    fast, slow = efficiency.latencies(calls, seconds=0.02)
    assert len(fast) == len(slow) == len(order) / 2
    assert 3 <= len(fast) <= 100
    assert order == ["fast", "slow"] * len(fast)
    assert 0 <= sorted(fast)[len(fast) // 2] < 3 <= min(slow)


def test_float32_is_what_is_timed():
    """The tables say so; the caller's TF32 setting comes back."""
    torch.backends.cudnn.allow_tf32, seen = True, []
    efficiency.latencies([lambda: seen.append(torch.backends.cudnn.allow_tf32)], seconds=0.0)
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32


def test_the_papers_four_upsamplers():
    table = efficiency.upsampler_costs(12, 16, seconds=0).set_index(["upsampler", "form"])
    parameters = table.parameters.to_dict()
    assert parameters["SPConv", "as trained"] == 6_924
    assert parameters["SPConv+", "as trained"] == 149_443
    assert parameters["IGConv", "as trained"] == 559_107
    assert parameters["IGConv", "instantiated"] == 6_912
    assert parameters["IGConv+", "as trained"] == 559_107 + 362_752
    assert parameters["IGConv+", "instantiated"] == 34_560
    flops = table.flops.to_dict()
    assert flops["SPConv", "as trained"] == flops["IGConv", "instantiated"] == 2 * 12 * 16 * 12 * 64 * 9
    # Kernels are made before the count, so both forms cost the same.
    assert flops["IGConv+", "as trained"] == flops["IGConv+", "instantiated"] == 2 * 12 * 16 * 60 * 64 * 9
    assert (table.latency_ms > 0).all()
    assert table.device.notna().all()


def test_memory_of_spconv_is_the_papers():
    """Figure 1 says 77 MB: features, convolution output and shuffled output (FACTS 2.5)."""
    head = efficiency.heads()["IGConv", "instantiated"]
    row = efficiency.cost(head, (torch.zeros(1, 64, 90, 160),), seconds=0)
    pixels = 90 * 160
    assert row["peak_memory_mib"] * 2**20 == 4 * (64 * pixels + 12 * pixels + 12 * pixels + 6912)


def test_whole_models_are_listed_in_both_forms():
    torch.manual_seed(0)
    options = dict(scales=(2,), channels=4, blocks=1)
    models = {"fixed": (build_model("edsr_tiny", "spconv", **options), 2),
              "multi": (build_model("edsr_tiny", "igconv+", hidden_dim=8, num_layers=1, **options), 2)}  # fmt: skip
    table = efficiency.model_costs(models, 8, 9, seconds=0)
    assert list(zip(table.model, table.form, strict=True)) == [
        ("fixed", "as trained"), ("multi", "as trained"), ("multi", "instantiated")]  # fmt: skip
    assert table.flops[1] == table.flops[2]
    assert table.parameters[2] == sum(p.numel() for p in models["multi"][0].encoder.parameters()) + 135 * 4 * 4
    assert efficiency.model_costs({}, 8, 8).empty


def test_generation_grows_with_the_number_of_kernels():
    table = efficiency.generation_time(IGConv(4, hidden_dim=8, num_layers=1), (2, 4), seconds=0)
    assert table.kernels.tolist() == [48, 192]
    rows = 4 * 9 * 4
    assert table.flops.tolist()[0] >= 2 * rows * (8 * 8 + 8 * 3)
    assert table.flops[1] > 3 * table.flops[0]


def test_the_first_call_makes_the_kernels_every_time():
    """It is measured with the hyper-network's work in it: FLOPs of both add up, and more memory is held."""
    table = efficiency.upsampler_costs(6, 7, channels=8, seconds=0).set_index(["upsampler", "form"])
    assert (table.loc["SPConv"].index == ["as trained"]).all()
    for name, plus in (("IGConv", False), ("IGConv+", True)):
        first, later, fixed = (table.loc[name, form] for form in (efficiency.FIRST_CALL, "as trained", "instantiated"))
        head = efficiency.heads(8, 2)[name, "as trained"]
        with torch.no_grad():
            made = efficiency.flops(lambda head=head: head.upsampler.hyper.generate(2))
            made += efficiency.flops(lambda head=head: head.sampler.hyper.generate(2)) if plus else 0
        assert first.flops == later.flops + made
        assert first.peak_memory_mib > later.peak_memory_mib > fixed.peak_memory_mib
        assert first.latency_ms > fixed.latency_ms


def test_sweeps_have_each_point_once():
    points = efficiency.sweep_points([(2, 4), (4, 8)], (2, 3), at=(2, 4))
    assert points == [(2, 4, 2), (4, 8, 2), (2, 4, 3)]
    with pytest.raises(InputError, match="scale must be an integer"):
        efficiency.sweep_points([(2, 4)], (0.5,), at=(2, 4))


def test_final_forms_are_the_papers_four():
    table = tables.final_forms(efficiency.upsampler_costs(4, 4, channels=4, seconds=0))
    assert table.index.tolist() == ["SPConv", "SPConv+", "IGConv", "IGConv+"]
    assert set(table.form[["IGConv", "IGConv+"]]) == {"instantiated"}


@pytest.mark.parametrize(("encoder", "side"), [("edsr_tiny", 11), ("smfanet", 16)])
def test_encoder_costs_on_fake_tensors_equal_those_of_runs(encoder, side):
    table = efficiency.encoder_costs(encoder, side).set_index("upsampler")
    assert table.index.tolist() == ["SPConv", "IGConv", "IGConv+"]
    for name, row in table.iterrows():
        model = build_model(encoder, name.lower(), scales=(2,)).instantiate(2)
        ran = efficiency.cost(model, (torch.rand(1, 3, side, side),), seconds=0)
        for column in ("parameters", "flops", "peak_memory_mib"):
            assert row[column] == ran[column], (name, column)


def test_encoder_costs_add_the_head_to_the_encoder():
    table = efficiency.encoder_costs("edsr_tiny", 8).set_index("upsampler")
    assert (table.parameters - table.encoder_parameters).tolist() == [27 * 24 * 4 + 12, 27 * 24 * 4, 135 * 24 * 4]
    assert table.flops["SPConv"] == table.flops["IGConv"] == table.flops["IGConv+"] - 2 * 64 * 48 * 24 * 9
    with pytest.raises(InputError, match="unknown encoder 'x'"):
        efficiency.encoder_costs("x", 8)


def test_figures_of_costs_are_drawn():
    costs = pd.concat([efficiency.upsampler_costs(h, 2 * h, 4, r, seconds=0) for h, r in ((4, 2), (8, 2), (4, 3))])
    torch.manual_seed(0)
    models = {"SPConv": (build_model("edsr_tiny", "spconv", scales=(2,), channels=4, blocks=1), 2)}
    whole = pd.concat([efficiency.model_costs(models, side, side, seconds=0) for side in (4, 8)]).assign(encoder="e")
    drawn = (
        figures.cost_sweep(costs), figures.model_sweep(whole),
        figures.encoder_costs(efficiency.encoder_costs("edsr_tiny", 8)),
        figures.stored_parameters(stored_parameters("edsr_tiny")),
    )  # fmt: skip
    for figure in drawn:
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes[:1])
    assert drawn[0].axes[3].get_xlabel() == "scale, LR 8x4 px"
    with pytest.raises(InputError, match="no costs at x2"):
        figures.cost_sweep(costs[costs.scale == 3])
