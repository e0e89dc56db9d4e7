# The order of the study: which notebook needs what, and what it leaves. Called by run_all.sh (igconv.workflow.driver).
# Executed notebooks stand under `log:`, because Snakemake deletes the outputs of a failed job and keeps its logs.
# A run's last.ckpt is not declared at all, so that a second try resumes from it.
import shlex

from igconv.study import results
from igconv.study.runs import runs_of
from igconv.workflow import forked
from igconv.workflow.driver import cores

PROFILE = config["profile"]
RUNS = runs_of(PROFILE)
if config.get("so_far"):  # a study that was cut short: `run_all.sh --so-far`
    RUNS = {name: run for name, run in RUNS.items() if results.model_file(PROFILE, name).is_file()}
# A changed table of runs changes these; paths are no trigger, because a moved folder is no new study.
SETTINGS = [run.config_hash() for run in RUNS.values()]
# What a training asks of a cluster, to be adapted; on one machine it counts for nothing.
CLUSTER = dict(runtime=1440, mem_mb=32000, cpus_per_task=4, gres="gpu:1")
# `run_all.sh --no-graphs`.
TRAIN_OPTIONS = " no_graphs=True" if config.get("no_graphs") else ""


def quoted(word):
    """A word for the shell in a text that Snakemake formats."""
    return shlex.quote(str(word)).replace("{", "{{").replace("}", "}}")


# Steps that run side by side share the machine's cores: threads that wait for one another on cores that another step has
# cost many times what they bring. Snakemake itself would give one thread to each.
SHARE = max(1, cores() // (workflow.cores or 1))
THREADS = f"OMP_NUM_THREADS=$(({{threads}} * {SHARE}))"
# A step is a forked process where the driver has a server for them, else a new one.
RUN = f"{THREADS} {' '.join(map(quoted, forked.COMMAND))}"
EXECUTE = f"{RUN} igconv.workflow.notebooks {{input.notebook:q}} {{log.notebook:q}} profile={PROFILE}"


def in_smoke(**parameters):
    """Parameters that make a notebook short where it only has to show that it works."""
    return "".join(f" {name}={quoted(value)}" for name, value in parameters.items() if PROFILE == "smoke")


def notebook(name):
    # By a function, and below the results by relative paths: Snakemake takes {braces} in other paths for wildcards.
    return lambda wildcards: ancient(workflow.basedir + f"/notebooks/{name}.ipynb")


def executed(name):
    return f"notebooks/{name}.ipynb"


def weights(names):
    return [f"runs/{name}/model.safetensors" for name in names]


def rows(names):
    return [f"rows/{name}.csv" for name in names]


rule all:
    input: "report/index.html"

rule data:
    input: notebook=notebook("00_data")
    output: [f"analysis/data/{name}.csv" for name in ("degradation", "images", "bicubic")], "rows/bicubic.csv"
    log: notebook=executed("00_data")
    shell: EXECUTE

# A rule per run, because priorities belong to rules: trainings come in the order of the table, which is what says most
# first, and before all else; the short analyses fill the cores at the end.
for place, run in enumerate(RUNS.values()):
    rule:
        name: f"train_{place}"
        input:
            weights([run.start_from] if run.start_from in RUNS else []),
            notebook=notebook("01_train"),
        output:
            [f"runs/{run.name}/{file}" for file in
             ("model.safetensors", "record.csv", "config.json", "provenance.json")],
        log: notebook=executed(f"01_train-{run.name}")
        # A changed entry in the table of runs changes this hash, and the run is made again.
        # The name is a parameter, because Snakemake evaluates `shell` when the job runs: `run` is then the last of the loop.
        params: settings=run.config_hash(), run=run.name
        priority: 2 * (len(RUNS) - place)
        resources: **CLUSTER
        shell: EXECUTE + " run={params.run}" + TRAIN_OPTIONS

    # Before the next training: what is trained is measured, also when the study is cut short.
    rule:
        name: f"evaluate_{place}"
        input: weights([run.name])
        # Updated: Snakemake would delete it first, and with it the rows that are still valid.
        output: update(f"rows/{run.name}.csv")
        params: settings=run.config_hash(), run=run.name
        priority: 2 * (len(RUNS) - place) - 1
        resources: **CLUSTER
        shell: f"{RUN} igconv.cli evaluate {{params.run:q}} --profile {PROFILE}"

rule evaluate:
    input: rows(RUNS), weights(RUNS), rules.data.output, notebook=notebook("02_evaluate")
    output: "tables/published.csv"
    log: notebook=executed("02_evaluate")
    threads: workflow.cores
    params: settings=SETTINGS
    shell: EXECUTE

rule similarity:
    input: weights(RUNS), notebook=notebook("03_encoder_similarity")
    output:
        [f"analysis/similarity/{name}.csv" for name in
         ("cka", "linear_parts", "functional", "functional_images", "encoder_and_head")],
    log: notebook=executed("03_encoder_similarity")
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(examples=128, fit_crops=64, test_side=96)

rule correlation:
    input: weights(RUNS), notebook=notebook("04_spconv_correlation")
    output:
        [f"analysis/correlation/{name}.csv" for name in
         ("correlation", "maps", "alignment", "alignment_psnr", "alignment_images", "continuity", "patterns")],
    log: notebook=executed("04_spconv_correlation")
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(permutations=49, fit_crops=64, test_side=96)

rule spectrum:
    input: weights(RUNS), notebook=notebook("05_spectral_bias")
    # The others need runs of certain kinds.
    output: "analysis/spectrum/bands.csv"
    log: notebook=executed("05_spectral_bias")
    params: settings=SETTINGS
    shell: EXECUTE

rule efficiency:
    input: weights(RUNS), notebook=notebook("06_efficiency")
    output:
        [f"analysis/efficiency/{name}.csv" for name in
         ("upsamplers", "sweep", "models", "alternatives", "encoders", "stored", "generation", "budget",
          "budget_summary")],
    log: notebook=executed("06_efficiency")
    # It measures time, so nothing may run beside it.
    threads: workflow.cores
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(model_side=24, seconds=0.1)

rule unseen:
    input: weights(RUNS), notebook=notebook("07_unseen_scales")
    output: [f"analysis/unseen/{name}.csv" for name in ("rows", "summary")]
    log: notebook=executed("07_unseen_scales")
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(scales=(4, 5, 8))

rule initialisation:
    # After the evaluation as a whole, which touches the rows that it has checked.
    input: weights(RUNS), rules.data.output, rows(RUNS), rules.evaluate.output, notebook=notebook("08_initialisation")
    output: [f"analysis/initialisation/{name}.csv" for name in ("start", "curves", "difference", "rates")]
    log: notebook=executed("08_initialisation")
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(seeds=1)

rule conversion:
    input: weights(RUNS), notebook=notebook("09_conversion")
    output: [f"analysis/conversion/{name}.csv" for name in ("quality", "iterations", "eigenvalues", "costs")]
    log: notebook=executed("09_conversion")
    params: settings=SETTINGS
    shell: EXECUTE + in_smoke(crops=24, left_out=(5,), hidden_dim=32, num_layers=1)

rule tables:
    input:
        rules.data.output, rows(RUNS), rules.evaluate.output, rules.similarity.output, rules.correlation.output,
        rules.spectrum.output, rules.efficiency.output, rules.unseen.output, rules.initialisation.output,
        rules.conversion.output,
        notebook=notebook("10_tables")
    output:
        [f"tables/{name}.csv" for name in
         ("main", "paper", "alternatives", "fixed_vs_multi", "equal_steps", "effects", "runs", "budget", "claims",
          "claims_per_scale")],
    log: notebook=executed("10_tables")
    shell: EXECUTE

rule figures:
    input: rules.tables.output, notebook=notebook("11_figures")
    output: "figures/psnr_gain.png"
    log: notebook=executed("11_figures")
    shell: EXECUTE

rule report:
    input: rules.figures.output
    output: "report/index.html"
    shell: f"{RUN} igconv.reporting.report {PROFILE}"
