"""The verdict on one function for all SPConvs, on planted tables."""

import pandas as pd
import pytest

from igconv.analysis.converted import CLOSED, FITTED
from igconv.reporting.conversions import one_encoder, one_function


def table(difference: float, spread: float = 0.01, head: str = FITTED, fitted: bool = True) -> pd.DataFrame:
    rows = [dict(network=f"net x{encoder}", family="net", encoder_scale=encoder, head=head, scale=scale, fitted=fitted,
                 dataset=name, images=14, psnr_y_db=30.0, difference_db=difference if encoder == 4 else -9.0,
                 low_db=difference - spread, high_db=difference + spread)
            for encoder in (2, 4) for scale in (2, 3, 4) for name in ("Set5", "Set14")]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("difference", "spread", "verdict"),
                         [(-0.01, 0.01, "level"), (-0.3, 0.02, "behind"), (-0.1, 0.6, "undecided")])  # fmt: skip
def test_kernels_of_one_function_beside_those_they_were_fitted_to(difference, spread, verdict):
    lines = one_function(table(difference, spread))
    assert [one["scale"] for one in lines] == ["x2", "x3", "x4"]
    assert {one["verdict"] for one in lines} == {verdict}
    assert all(one["value"] == pytest.approx(difference) for one in lines)  # of the encoder of the largest scale alone


def test_scales_left_out_and_other_heads_do_not_count():
    whole = pd.concat([table(-0.01), table(-13.0, fitted=False), table(0.0, head=CLOSED)])
    assert {round(one["value"], 3) for one in one_function(whole)} == {-0.01}


def test_without_a_table_it_was_not_run():
    assert one_function(pd.DataFrame())[0]["verdict"] == "not run"
    assert one_encoder(pd.DataFrame(), paper())[0]["verdict"] == "not run"


def paper(encoder: str = "net") -> pd.DataFrame:
    """The paper's rows: IGConv 0.1 dB above the table on Set5, 0.3 dB on Set14; other sets and upsamplers beside."""
    rows = [dict(encoder=encoder, upsampler=name, scale=scale, dataset=dataset, psnr=30.0 + more)
            for name, shift in (("IGConv", 0.0), ("SPConv", 5.0)) for scale in (2, 3, 4)
            for dataset, more in (("Set5", 0.1 + shift), ("Set14", 0.3 + shift), ("Manga109", 9.0))]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_encoder_is_put_beside_the_papers_multi_scale_network():
    """The mean over common sets, of the encoder of the largest scale and the fitted IGConv, of networks on DF2K."""
    whole = pd.concat([table(0.0).assign(family="net DF2K"), table(0.0, head=CLOSED).assign(family="net DF2K"),
                       table(0.0).assign(family="net DIV2K")])  # fmt: skip
    whole.loc[whole.encoder_scale == 2, "psnr_y_db"] = 0.0
    lines = one_encoder(whole, paper())
    assert [(one["about"], one["scale"], one["verdict"]) for one in lines] == [
        ("net DF2K, converted", f"x{scale}", "fact") for scale in (2, 3, 4)
    ]
    assert all(one["value"] == pytest.approx(-0.2) for one in lines)
    assert "mean over 2 sets (-0.30 to -0.10)" in lines[0]["measure"]
    assert one_encoder(whole, paper("another")) == []
