"""The verdict on one function for all SPConvs, on planted tables."""

import pandas as pd
import pytest

from igconv.analysis.converted import CLOSED, FITTED
from igconv.reporting.conversions import one_function


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
