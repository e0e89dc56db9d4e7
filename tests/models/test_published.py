"""Published weights in our composition, and the numbers that others published for them."""

import pandas as pd
import pytest
import torch

from igconv import InputError
from igconv.data import datasets, weights
from igconv.evaluation import benchmark
from igconv.models import published
from igconv.models.super_resolver import build_model
from igconv.study import results
from igconv.study.runs import PUBLISHED


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("IGCONV_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path


def official_names(model, scale: int) -> dict:
    """A state dict of encoder + SPConv under SMFANet's names."""
    head = f"upsampler.heads.{scale}.0."
    return {k.replace(head, "to_img.0.").removeprefix("encoder."): v for k, v in model.state_dict().items()}


def test_weights_become_encoder_and_spconv(data_folder):
    """Every tensor arrives: the same image as from the model they were taken from, through a .pth of theirs."""
    model = build_model("smfanet_plus", "spconv", scales=(3,)).eval()
    torch.save({"params": official_names(model, 3)}, data_folder / "weights" / "smfanet_plus_df2k_x3.pth")
    loaded = published.load("smfanet_plus_df2k_x3")
    assert not loaded.training
    x = torch.rand(1, 3, 16, 20)
    with torch.no_grad():
        assert torch.equal(loaded(x, 3), model(x, 3))
    assert torch.equal(published.spconv_kernel("smfanet_plus_df2k_x3"), model.upsampler.heads["3"][0].weight)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smfanet_plus_df2k_x5", "choose from"),
        ("bsrn_x2", "choose from"),
        ("smfanet_plus_df2k_x2", r"not found.*igconv data fetch smfanet_plus_df2k_x2"),
    ],
)
def test_what_cannot_be_loaded(data_folder, name, line):
    """Unknown, without an encoder here, not downloaded: one line each."""
    with pytest.raises(InputError, match=line):
        published.load(name)


def test_weights_of_another_scale_are_refused(data_folder):
    """A file under the wrong name."""
    state = official_names(build_model("smfanet_plus", "spconv", scales=(2,)), 2)
    torch.save({"params": state}, data_folder / "weights" / "smfanet_plus_df2k_x4.pth")
    with pytest.raises(InputError, match=r"smfanet_plus_df2k_x4 has shape \(12, 48, 3, 3\), expected \(48, 48, 3, 3\)"):
        published.load("smfanet_plus_df2k_x4")
    with pytest.raises(InputError, match=r"no SPConv kernel.*48 output channels"):
        published.spconv_kernel("smfanet_plus_df2k_x4")


def test_names_of_the_authors_files():
    """Every file of the release is a known encoder of ours with one of the two upsamplers."""
    kinds = {name: published.kind(name) for name in published.runnable()}
    assert kinds["SMFANet_IGConvPlus_DF2K"] == ("smfanet_plus", "igconv+")
    assert kinds["HAT_IGPlus_DF2K_Finetuning"] == ("hat", "igconv+")
    assert kinds["MambaIR_Light_IGConv_DIV2K"] == ("mambair_light", "igconv")
    assert kinds["smfanet_div2k_x4"] == ("smfanet", "spconv")


@pytest.mark.parametrize("profile", sorted(PUBLISHED))
def test_profiles_name_models_that_can_be_run(profile):
    """No typing errors in the table."""
    assert set(PUBLISHED[profile]) <= set(published.runnable())


def test_triples_of_one_architecture_and_one_training_set(monkeypatch):
    assert published.triples()["SMFANet+ DF2K"] == {s: f"smfanet_plus_df2k_x{s}" for s in (2, 3, 4)}
    assert list(published.triples()) == ["SMFANet DIV2K", "SMFANet+ DF2K", "SMFANet+ DIV2K"]
    assert set(published.triples(runnable_only=False)) - set(published.triples()) == {"BSRN DF2K", "LKDN DF2K"}
    left = {name: entry for name, entry in weights.catalogue().items() if name != "smfanet_plus_df2k_x3"}
    monkeypatch.setattr(weights, "catalogue", lambda: left)
    with pytest.raises(InputError, match=r"SMFANet\+ DF2K has no published model for x3"):
        published.triples()


@pytest.mark.data
@pytest.mark.parametrize("name", [f"{net}_x{scale}" for net in ("bsrn", "lkdn") for scale in (2, 3, 4)])
def test_other_spconv_kernels_can_be_read(data_root, name):
    """For the correlation analysis: 64 and 56 channels."""
    scale = int(name[-1])
    assert published.spconv_kernel(name).shape == (3 * scale**2, 64 if name[0] == "b" else 56, 3, 3)


# Values of the models run from their own repositories' code with these weights (Y-PSNR, SSIM; Set5).
SET5 = {
    "smfanet_div2k_x2": (38.044, 0.9606), "smfanet_div2k_x3": (34.458, 0.9275), "smfanet_div2k_x4": (32.253, 0.8956),
    "smfanet_plus_div2k_x3": (34.626, 0.9285), "smfanet_plus_df2k_x2": (38.185, 0.9611),
    "smfanet_plus_df2k_x3": (34.665, 0.9292), "smfanet_plus_df2k_x4": (32.511, 0.8985),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", sorted(SET5))
def test_published_models_reach_their_values(data_root, name):
    """Our composition, degradation and metrics together, on Set5; rows come with what is known about the model."""
    table = benchmark.evaluate_published("benchmark", name, ("Set5",))
    psnr, ssim = SET5[name]
    assert table.psnr_y_db.mean() == pytest.approx(psnr, abs=0.002)
    assert table.ssim_y.mean() == pytest.approx(ssim, abs=0.0001)
    assert set(table.upsampler) == {"spconv"}
    assert set(table.train_scales) == {name[-1]}


# What others measured with MATLAB's bicubic, at x2, x3 and x4, to the last digit; Set14's grey bridge is taken as RGB.
BICUBIC = {"Set5": (33.673, 30.403, 28.429), "Set14": (30.325, 27.631, 26.088), "B100": (29.560, 27.209, 25.961),
           "Urban100": (26.876, 24.458, 23.140)}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BICUBIC))
def test_committed_rows_of_bicubic_have_the_published_means(name):
    rows = results.read_table(results.PROJECT / "results" / "cpu" / "rows" / "bicubic.csv")
    rows = rows[rows.dataset == name]
    assert rows.groupby("scale").psnr_y_db.mean().tolist() == pytest.approx(BICUBIC[name], abs=0.001)
    assert len(rows) == 3 * datasets.image_set(name).images


@pytest.mark.data
@pytest.mark.parametrize(("name", "every"), [("Set5", 1), ("Set14", 1), ("B100", 5), ("Urban100", 20)])
def test_bicubic_gives_the_committed_rows(data_root, name, every):
    """Each image of the small sets, some of the large ones; all of them would take minutes."""
    rows = results.read_table(results.PROJECT / "results" / "cpu" / "rows" / "bicubic.csv")
    rows = rows[rows.dataset == name].set_index(["dataset", "image", "scale"])[["psnr_y_db", "ssim_y"]]
    left_out = frozenset(key for number, key in enumerate(rows.index) if number // 3 % every)
    measured = pd.DataFrame(benchmark.measure(benchmark.bicubic, (name,), (2, 3, 4), known=left_out))
    measured = measured.set_index(rows.index.names)[list(rows)]
    assert len(measured) == len(rows) - len(left_out)
    pd.testing.assert_frame_equal(measured, rows.loc[measured.index], rtol=0, atol=1e-6)


@pytest.mark.data
def test_the_catalogue_of_weights_fits_the_files(data_root):
    """Names, scales and the published file each was made from."""
    here = [name for name, entry in weights.catalogue().items() if entry.found()]
    assert len(here) == 15
    assert not [line for name in here for line in weights.verify(name)]
