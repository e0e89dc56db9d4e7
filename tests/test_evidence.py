"""The committed results belong to the table of runs as it is now, and hang together."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from igconv.evaluation import noise
from igconv.models import checkpoints
from igconv.reporting import catalogue, claims, summary, tables
from igconv.study import results
from igconv.study.runs import get_run, runs_of

COMMITTED = results.PROJECT / "results"
TRAINED = [
    (profile, name)
    for profile in ("cpu", "benchmark")
    for name in runs_of(profile)
    if (COMMITTED / profile / "runs" / name / "config.json").is_file()
]
EXPORTED = sorted(COMMITTED.glob("*/weights/*.safetensors"))


def table(path: Path) -> pd.DataFrame:
    return results.read_table(path)


def test_there_is_evidence():
    assert {profile for profile, _ in TRAINED} >= {"cpu"}
    trained = {name for profile, name in TRAINED if profile == "cpu"}
    left = [run for name, run in runs_of("cpu").items() if name not in trained]
    assert all("converted" in run.variant or run.seed or "eightfold" in run.variant for run in left), (
        "blocks A, B and D are here; results/README.md has the hours of the others"
    )


@pytest.mark.parametrize(("profile", "name"), TRAINED)
def test_a_run_has_the_settings_of_the_table(profile, name):
    """Config, provenance and record are of one training, that of the table; the rows are of its weights."""
    run, folder = get_run(profile, name), COMMITTED / profile / "runs" / name
    config, facts = (json.loads((folder / file).read_text()) for file in ("config.json", "provenance.json"))
    assert config["config_hash"] == facts["config_hash"] == run.config_hash()
    assert "+changes" not in facts["git_commit"]
    assert pd.read_csv(folder / "record.csv").step.iloc[-1] == run.steps
    assert (folder / "bands.csv").is_file()
    costs = table(COMMITTED / profile / "tables" / "runs.csv").set_index("run").loc[name]
    assert (costs.state, costs.git_commit) == ("trained", facts["git_commit"])
    rows = table(COMMITTED / profile / "rows" / f"{name}.csv")
    assert set(rows.weights_sha256) == {costs.weights_sha256}
    assert set(rows.dataset) == set(run.test_sets)
    assert not rows.duplicated(["dataset", "image", "scale"]).any()
    images = table(COMMITTED / profile / "rows" / "bicubic.csv")[["dataset", "image"]].drop_duplicates()
    assert rows.scale.value_counts().to_dict() == dict.fromkeys(run.scales, len(images))


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_exported_weights_are_small_and_of_the_committed_run(path):
    meta = checkpoints.metadata(path)["meta"]
    assert path.stat().st_size <= 5e6
    assert (meta["profile"], meta["run"]) == (path.parts[-3], path.stem)
    costs = table(COMMITTED / meta["profile"] / "tables" / "runs.csv").set_index("run")
    assert meta["source_sha256"] == costs.weights_sha256[meta["run"]]


def test_weights_of_block_a_are_there_and_forty_megabytes_are_enough():
    runs = runs_of("cpu")
    first = next(iter(runs.values())).encoder
    block_a = {name for name, run in runs.items() if run.encoder == first and run.seed == 0
               and (not run.variant or (run.variant == "third" and run.is_fixed_scale))}  # fmt: skip
    assert {path.stem for path in EXPORTED if path.parts[-3] == "cpu"} >= block_a
    assert sum(path.stat().st_size for path in EXPORTED) <= 40e6


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/notebooks/*.ipynb")), ids=lambda p: f"{p.parts[-3]}-{p.stem}")
def test_executed_notebooks_ran_to_their_end_and_name_no_place(path):
    book = nbformat.read(path, 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is not None for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    noted = book.metadata.papermill
    assert (noted.output_path, Path(noted.input_path).name) == (path.name, noted.input_path)


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md"])
def test_pages_have_the_claims_as_they_were_written(page):
    written = (COMMITTED / "cpu" / "tables" / "claims_per_scale.md").read_text().strip()
    assert written in (results.PROJECT / page).read_text()


def test_findings_and_what_would_change_them_follow_from_committed_files(monkeypatch):
    """As `python -m igconv.reporting.summary cpu` prints them."""
    monkeypatch.setenv("IGCONV_RESULTS", str(COMMITTED))
    page = (results.PROJECT / "docs" / "findings.md").read_text()
    assert summary.findings("cpu").strip() in page
    costs = summary.findings("cpu").splitlines()[-1]
    readme = (results.PROJECT / "README.md").read_text()
    assert all(number in readme for number in re.findall(r"[\d.]+ \([\d.]+ to [\d.]+\)", costs))
    assert len(summary.added("cpu").splitlines()) >= 5
    assert summary.added("cpu").strip() in page
    for row in noise.measured().itertuples():
        needed = noise.seeds_for_equality(row.sd_db)
        assert f"| x{row.scale} | {row.sd_db:.3f} | {row.degrees:.1f} | {needed} |" in page
    assert summary.wanted("cpu").strip() in (COMMITTED / "README.md").read_text()


def test_the_page_of_results_counts_what_was_trained():
    page = " ".join((COMMITTED / "README.md").read_text().split())
    costs = table(COMMITTED / "cpu" / "tables" / "runs.csv")
    trained = costs[costs.state == "trained"]
    assert f"{len(trained)} of {len(costs)} runs, {trained.seconds.sum() / 3600:.1f} hours of training in all" in page


def test_numbers_in_the_words_of_the_findings(monkeypatch, cpu_rows):
    """Those that no command prints: written out here with what they are of."""
    monkeypatch.setenv("IGCONV_RESULTS", str(COMMITTED))
    page = " ".join((results.PROJECT / "docs" / "findings.md").read_text().split())
    ours, theirs = (next(run for run in runs_of(p).values() if run.encoder == e and run.upsampler == "igconv")
                    for p, e in (("cpu", "edsr_tiny"), ("paper", "edsr")))  # fmt: skip
    assert f"takes {theirs.steps // ours.steps} times as many steps" in page
    assert f"{ours.steps:,} steps, one seed" in page
    assert {runs_of("cpu")[name].seed for profile, name in TRAINED if profile == "cpu"} == {0}
    images = cpu_rows.drop_duplicates(["dataset", "image"]).dataset.value_counts(normalize=True)
    assert len(images) == 4
    assert f"two of the four sets have {images.iloc[:2].sum():.0%} of the images" in page.replace(" %", "%")
    noisy = noise.measured()
    assert (noisy.degrees > 2).all()
    assert (noisy.degrees < 3).all()
    assert "two to three degrees of freedom" in page
    repeated = table(results.PROJECT / "benchmarks" / "results" / "precision.csv")
    assert repeated.seed.nunique() == 3
    assert repeated.precision.nunique() == 2
    assert "three seeds in two precisions" in page
    (steps,) = repeated.steps.unique()
    assert f"{steps:,} steps, other images" in page
    assert f"± {noise.EQUAL_DB} dB" in page


def test_the_claims_follow_from_the_committed_tables(monkeypatch):
    monkeypatch.setenv("IGCONV_RESULTS", str(COMMITTED))
    made = claims.claims(claims.read("cpu"), runs_of("cpu"))
    stored = table(COMMITTED / "cpu" / "tables" / "claims.csv")
    for column in ("claim", "about", "scale", "verdict", "source", "budget"):
        assert made[column].tolist() == stored[column].fillna("").tolist()
    for column in ("value", "low", "high", "p_holm"):
        assert made[column].to_numpy(float) == pytest.approx(stored[column].to_numpy(float), abs=1e-6, nan_ok=True)
    assert not {"differs", "reproduced"} & set(stored[stored.budget.str.startswith("reduced")].verdict)
    assert stored.source.ne("").all()


@pytest.fixture(scope="module")
def cpu_rows():
    files = [COMMITTED / "cpu" / "rows" / f"{name}.csv" for name in ("bicubic", *runs_of("cpu"))]
    files = [file for file in files if file.is_file()]
    return pd.concat([table(file) for file in files], ignore_index=True)


def test_the_main_table_follows_from_the_rows(cpu_rows):
    """Made again from the committed rows it is the same."""
    made = tables.main(cpu_rows, runs_of("cpu"))
    stored = table(COMMITTED / "cpu" / "tables" / "main.csv")
    assert made.values.tolist() == stored.fillna("").values.tolist()


def test_the_effects_of_ingredients_follow_from_the_rows(cpu_rows):
    """A line per pair, scale and set; their means made again from the committed rows are the same."""
    stored = table(COMMITTED / "cpu" / "tables" / "effects.csv")
    assert len(stored) == 13 * 3 * (2 + cpu_rows.dataset.nunique())  # all images, mean of sets, each set
    assert set(tables.ablation(stored).within) == {"SPConv", "IGConv", "IGConv+"}
    at = cpu_rows.set_index(["run", "scale", "dataset", "image"]).psnr_y_db.sort_index()
    for scale in (2, 3, 4):
        line = stored.query(
            f"ingredient == 'IGSample' and within == 'IGConv+' and scale == {scale} and dataset == 'all'"
        )
        with_it, without = (at[name, scale] for name in ("edsr_tiny-igconv+-s0", "edsr_tiny-igconv+-no_igsample-s0"))
        assert line.difference_db.item() == pytest.approx((with_it - without).mean(), abs=1e-9)


def test_no_table_or_figure_is_left_of_what_nobody_writes():
    """Those of an older version would be read as results of this one."""
    for folder, known in (("tables", catalogue.TABLES), ("figures", catalogue.FIGURES)):
        left = {path.name.split(".")[0] for path in COMMITTED.glob(f"*/{folder}/*")} - {one.name for one in known}
        assert not left
