"""The README stays short, its pictures can be seen, and the citation is a valid file."""

import re

import pandas as pd
import yaml
from committed import PACKAGED_ROWS
from PIL import Image

from igconv.analysis import converted
from igconv.reporting import tables
from igconv.study.results import PROJECT


def test_the_readme_is_one_page_that_begins_with_a_picture():
    lines = (PROJECT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert lines[2].startswith("![")
    assert [line for line in lines[:25] if line.startswith("./run_all.sh")] != []


def test_pictures_of_the_docs_are_wide_enough_to_be_seen():
    found = sorted((PROJECT / "docs" / "pictures").glob("*.png"))
    assert found
    for path in found:
        with Image.open(path) as picture:
            assert picture.width >= 600, path


def test_the_citation_names_this_and_the_paper():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2408.09674"


def test_the_table_of_the_packaged_model_is_that_of_its_rows():
    """Means over images, as `benchmarks/default_model.py` has measured them."""
    rows = pd.read_csv(PACKAGED_ROWS)
    page = (PROJECT / "docs" / "conversion.md").read_text()
    for dataset, part in rows.groupby("dataset"):
        means = part.groupby("scale").psnr_y_db.mean().reindex(range(2, 9))
        cells = ["-" if mean != mean else f"{mean:.2f}" for mean in means]
        assert f"| {dataset} | {' | '.join(cells)} |" in page


def test_the_packaged_model_stands_beside_the_enlarged_image_and_its_spconvs():
    """In docs/conversion.md; at no scale of no set is the network's image, enlarged by bicubic, better."""
    page = " ".join((PROJECT / "docs" / "conversion.md").read_text().split())
    means = pd.read_csv(PACKAGED_ROWS).groupby(["dataset", "scale"]).psnr_y_db.mean()
    others = pd.read_csv(PACKAGED_ROWS.with_name("default_model_enlarged.csv"))
    gained = (means - others.set_index(["dataset", "scale"]).psnr_y_db).dropna()
    assert len(gained) == len(others) == 4 * means.index.get_level_values(0).nunique()
    assert (gained > 0).all()
    for dataset, part in gained.groupby("dataset"):
        assert f"| {dataset} | {' | '.join(f'{db:+.2f}' for db in part.sort_index())} |" in page
    made = pd.read_csv(PACKAGED_ROWS.with_name("default_model_made.csv"))
    lost = (made.closed_form_db - made.converted_db).max()
    assert f"its function is at most {lost:.2f} dB below its SPConvs" in page


def test_what_a_conversion_costs_is_what_notebook_09_has_measured():
    """In docs/conversion.md: the function, the encoder, and scales that were left out of the fit."""
    quality = pd.read_csv(PROJECT / "results" / "cpu" / "analysis" / "conversion" / "quality.csv")
    costs = pd.read_csv(PROJECT / "results" / "cpu" / "analysis" / "conversion" / "costs.csv")
    page = " ".join((PROJECT / "docs" / "conversion.md").read_text().split())
    of_function = quality[quality["head"] == converted.FITTED]
    assert of_function[of_function.fitted].difference_db.abs().max() < 1e-3
    assert "costs less than 0.001 dB everywhere" in page
    assert (
        f"IGConv is {-of_function[~of_function.fitted].difference_db.mean():.1f} dB below SPConvs fitted there" in page
    )
    (of_encoder,) = re.findall(r"(\S+) dB in the median, (\S+) to (\S+)\.", converted.conclusion(quality, costs))
    median, low, high = (number.removeprefix("-") if place == 0 else number for place, number in enumerate(of_encoder))
    assert f"are {median} dB below the networks trained there (median; {low} to {high})" in page


def measured_speed(script: str, device: str) -> pd.DataFrame:
    (path,) = (PROJECT / "benchmarks" / "results").glob(f"{script}-{device}*.csv")
    return pd.read_csv(path)


def test_what_takes_how_long_is_what_was_measured():
    """In docs/speed.md: the whole commands on two machines, and ratios of training steps."""
    page = " ".join((PROJECT / "docs" / "speed.md").read_text().split())
    epyc, xeon = "amd-epyc", "intel-r-xeon"
    study = [measured_speed("study-sample", machine).set_index("step").seconds["whole"] for machine in (epyc, xeon)]
    assert f"| {study[0]:.0f} s | {study[1]:.0f} s |" in page
    images = [measured_speed("upscale", machine).set_index("input") for machine in (epyc, xeon)]
    for size in ("300x300", "2000x1500", "4000x2000"):
        cells = [f"{m.seconds[size]:.1f} s, {m.peak_mib[size]:,.0f} MiB" if size in m.index else "-" for m in images]
        assert f"{size.replace('x', ' x ')} px | {' | '.join(cells)} |" in page
    steps = measured_speed("step", epyc).query("scales == 'x4'").set_index("case")
    ratios = [f"{steps[column][case]:.2f}" for column in ("ratio", "flop_ratio") for case in ("IGConv", "IGConv+")]
    said = "IGConv takes {} and with IGConv+ {} times the step with SPConv, where FLOPs alone say {} and {}"
    assert said.format(*ratios) in page
    bank = measured_speed("kernel_bank", epyc).query("scale == 4 and form == 'igconv' and what == 'forward + backward'")
    assert f"in {bank.ratio.item():.2f} of the time and {bank.peak_ratio.item():.2f} of the memory" in page
    half = measured_speed("against", epyc).set_index("case").ratio.filter(like="bf16")
    assert "bf16 the steps take {:.2f} (IGConv) and {:.2f} (IGConv+)".format(*half) in page


def test_what_a_conversion_takes_is_what_was_measured():
    """In docs/conversion.md: a line per kind; of a network of random weights the PSNR says nothing."""
    page = (PROJECT / "docs" / "conversion.md").read_text()
    kinds = {
        "smfanet_plus_df2k_x4-x234-embedded": "128, embedded",
        "smfanet_plus_df2k_x4-x234-512": "512, 370 photographs",
        "smfanet_plus_df2k_x4-x234-1536": "1,536, 370 photographs",
        "smfanet_plus_df2k_x4-x2345678-512": "512, 370 photographs",
        "edsr_baseline_untrained-x234-512": "512, 370 photographs",
    }
    for file, crops in kinds.items():
        table = measured_speed(f"conversion_{file}", "amd-epyc").query("upsampler == 'IGConv' and dataset == 'Set5'")
        table = table.sort_values("scale")
        values = ["-"] * 3 if "untrained" in file else [f"{db:.2f}" for db in table.psnr_y_db[:3]]
        cost = f"{table.seconds.iloc[0]:.0f} | {table.peak_memory_mb.iloc[0]:,.0f}"
        assert f"| {crops} | {cost} | {' | '.join(values)} |" in page


def test_what_one_function_for_all_scales_costs():
    """In docs/conversion.md: beside the SPConvs it was fitted to, and beside the x4 image enlarged."""
    page = " ".join((PROJECT / "docs" / "conversion.md").read_text().split())
    table = measured_speed("conversion_smfanet_plus_df2k_x4-x2345678-512", "amd-epyc")
    heads = table.pivot_table(index=["dataset", "scale"], columns="upsampler", values="psnr_y_db")
    lost = (heads["SPConvs in closed form"] - heads["IGConv"]).groupby("scale").max()
    assert (lost.idxmax(), lost.max() < 0.1) == (8, True)
    most, few = lost.max(), lost.loc[:5].max()
    assert f"is at most {most:.2f} dB below the SPConvs it was fitted to, at x8, and {few:.2f} dB at x2 to x5" in page
    gained = (heads["IGConv"] - heads["as published, enlarged by bicubic"]).loc["Set5"].dropna()
    signed = [f"{db:+.2f}" for db in gained]
    assert f"it has {', '.join(signed[:-1])} and {signed[-1]} dB at x5 to x8 on Set5" in page


def test_a_conversion_without_training_stands_beside_the_paper():
    """In docs/conversion.md: the start of block E, and the paper's rows."""
    table = pd.read_csv(PROJECT / "results" / "cpu" / "tables" / "published.csv")
    start = table[table.run == "smfanet_plus-igconv-converted-s0"]
    assert sorted(start.dataset.unique()) == ["B100", "Set14", "Set5", "Urban100"]
    page = (PROJECT / "docs" / "conversion.md").read_text()
    for dataset, part in start.groupby("dataset"):
        numbers = [f"{db:.2f}" for column in ("psnr_y_db", "paper_psnr_db") for db in part.sort_values("scale")[column]]
        assert f"| {dataset} | {' | '.join(numbers)} |" in page
    of_run = table.set_index(["run", "dataset", "scale"]).psnr_y_db
    gained = of_run["smfanet_plus-igconv-converted_tuned-s0"] - of_run["smfanet_plus-igconv-converted-s0"]
    for dataset, part in gained.groupby("dataset"):
        assert f"| {dataset} | {' | '.join(f'{db:+.2f}' for db in part.sort_index())} |" in page


def test_what_the_constant_of_a_published_head_brings():
    """In docs/results.md: the rows of block D in the table beside the paper."""
    page = " ".join((PROJECT / "docs" / "results.md").read_text().split())
    table = pd.read_csv(PROJECT / "results" / "cpu" / "tables" / "published.csv").query("dataset == 'Set5'")
    models = {run: part.sort_values("scale") for run, part in table.groupby("run")}
    found = {run: " / ".join(f"{db:.2f}" for db in part.psnr_y_db) for run, part in models.items()}

    def of(upsampler: str, variant: str) -> str:
        return found[f"smfanet_plus-{upsampler}-{variant}-s0"]

    texts = {"igconv": "IGConv has {} dB without it and {} with it", "igconv+": "brings the brightness, {} and {}."}
    for upsampler, text in texts.items():
        assert text.format(of(upsampler, "from_x2_frozen"), of(upsampler, "from_x2_constant_frozen")) in page
    assert f"then 700 steps of all weights: {of('igconv+', 'from_x2_tuned')}." in page
    quality = pd.read_csv(PROJECT / "results" / "cpu" / "analysis" / "conversion" / "quality.csv")
    symmetric = quality[(quality.network == "SMFANet+ DF2K x4") & (quality.dataset == "Set5")]
    symmetric = symmetric[symmetric["head"] == converted.SAMPLED].sort_values("scale").difference_db
    assert f"IGConv+ is {' / '.join(f'{-db:.2f}' for db in symmetric)} dB below SPConvs" in page
    (paper,) = {tuple(part.paper_psnr_db) for part in models.values() if part.upsampler.iloc[0] == "IGConv"}
    assert " / ".join(f"{db:.2f}" for db in paper) in page


def test_what_a_difference_of_two_trainings_is_worth():
    """In docs/results.md: the usual half-width of differences over all images at equal steps."""
    table = pd.read_csv(PROJECT / "results" / "cpu" / "tables" / "fixed_vs_multi.csv")
    table = table[(table.dataset == "all") & (table.budget == tables.EQUAL_STEPS)]
    usual = ((table.high_db - table.low_db) / 2).groupby(table.scale).median()
    page = " ".join((PROJECT / "docs" / "results.md").read_text().split())
    assert f"a 95 % half-width of about {' / '.join(f'{db:.2f}' for db in usual)} dB" in page


def test_what_of_a_start_is_the_learning_rate():
    """In docs/results.md: the same trainings at the study's rate, and each start at its best."""
    table = pd.read_csv(PROJECT / "results" / "cpu" / "analysis" / "initialisation" / "rates.csv")
    page = " ".join((PROJECT / "docs" / "results.md").read_text().split())
    authors, spconv = (part for _, part in table.groupby("start", sort=False))
    at_study = (spconv[spconv.factor == 1].psnr_y_db.iloc[0], authors[authors.factor == 1].psnr_y_db.iloc[0])
    assert (
        f"after {table.steps.iloc[0]} steps it is {at_study[0] - at_study[1]:+.2f} dB at the rate of the study" in page
    )
    assert f"{spconv.psnr_y_db.max() - authors.psnr_y_db.max():+.2f} dB with each start at its best of three" in page
    assert {part.factor[part.psnr_y_db.idxmax()] for part in (authors, spconv)} == {table.factor.max()}
