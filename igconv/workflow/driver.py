"""What ``run_all.sh`` starts: Snakemake over the notebooks, with a lock, progress lines and a closing summary."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec

import pandas as pd

from igconv.data import datasets
from igconv.errors import InputError
from igconv.files import exclusive, note_holder
from igconv.study import results
from igconv.study.runs import runs_of
from igconv.training.identity import outdated
from igconv.workflow import forkserver

# Lines of the log that people want to see: notebooks starting, ending and failing, training steps, the count.
SHOWN = re.compile(r"^(> |< |FAILED |.*: step \d+/\d+|.*left out: |.*is in use by |Job \d+ has been submitted)")
COUNT = re.compile(r"^(\d+) of (\d+) steps \(\d+%\) done")


def plan(profile: str) -> pd.DataFrame:
    """One row per run: what it is, its budget, and whether it is trained."""
    rows = []
    for run in runs_of(profile).values():
        state = "trained" if results.model_file(profile, run.name).is_file() else "to do"
        state = "to do (its images changed)" if state == "trained" and outdated(run) else state
        rows.append(
            {
                "run": run.name,
                "scales": ",".join(map(str, run.scales)),
                "steps": run.steps,
                "batch": run.batch,
                "LR patch": run.lr_patch,
                "LR patches": run.steps * run.batch,
                "trained on": "+".join(run.train_sets),
                "state": state,
            }
        )
    return pd.DataFrame(rows)


def missing_data(profile: str) -> list[str]:
    """A line for each image set of a profile that is not on this machine."""
    names = dict.fromkeys(n for run in runs_of(profile).values() for n in (*run.train_sets, *run.test_sets))
    lines = []
    for name in names:
        try:
            datasets.image_set(name).paths()
        except InputError as error:
            lines.append(str(error))
    return lines


def snakemake(profile: str, jobs: int, *options: str) -> list[str]:
    # Our own lock dies with its holder, so Snakemake's, which has to be cleared by hand after a kill, is off.
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(results.PROJECT / "Snakefile"),
        "--directory",
        str(results.root(profile)),
        "--cores",
        str(jobs),
        "--nolock",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "params",
        "--config",
        f"profile={profile}",
        *options,
    ]


def environment() -> dict[str, str]:
    """This process's environment for Snakemake, without a user's profile for other workflows.

    ``SNAKEMAKE_PROFILE`` may name a missing folder, a cluster, or a dry run.
    """
    return {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}


def cores() -> int:
    """CPU cores that this process may use: a batch system may allot fewer than the machine has."""
    allotted = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allotted(0)) if allotted else os.cpu_count() or 1


def again(profile: str) -> list[str]:
    """Snakemake options that make runs again whose training images have changed, with a line that says so.

    Not a parameter of the rules: one more would make all results of before out of date.
    """
    root = results.root(profile)
    runs = [run for run in runs_of(profile).values() if outdated(run, known_only=False)]
    files = [str(results.model_file(profile, run.name).relative_to(root)) for run in runs]
    if files:
        print(f"training images have changed since: {len(files)} runs are made again", flush=True)
    return ["--forcerun", *files] if files else []


def cluster_options(jobs: int) -> list[str]:
    """Snakemake options that send every step to SLURM. Raises InputError without the plug-in for it."""
    if find_spec("snakemake_executor_plugin_slurm") is None:
        raise InputError("--slurm needs Snakemake's SLURM plug-in: pip install 'igconv[slurm]'")
    options = ["--profile", str(results.PROJECT / "profiles" / "slurm")]
    return options + (["--jobs", str(jobs)] if jobs else [])


def run(profile: str, jobs: int, extra: Sequence[str] = (), here: bool = True) -> int:
    """Make everything of a profile that is not up to date. Returns the exit status.

    Args: ``jobs``, cores to use; ``extra``, further options for Snakemake; ``here``, whether the steps run on this
        machine (a server then forks them) and not on a cluster.
    """
    root = results.root(profile)
    with exclusive(root / ".lock", wait=True, who=f"results of profile {profile}") as lock:
        log = root / "run.log"
        start = time.monotonic()
        with (
            open(log, "w") as sink,
            open(log) as source,
            forkserver.serving(environment(), wanted=here) as (variables, holds),
        ):
            # Snakemake writes to the file and holds the lock as well: if this process is killed it can finish its
            # work, and the next call waits for it.
            child = subprocess.Popen(
                snakemake(profile, jobs, *extra),
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=(lock.fileno(), *holds),
                env=variables,
            )
            note_holder(lock, child.pid)
            try:
                failed = _show(child, source)
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)  # at a terminal it has got one already; SIGTERM would end nothing soon
                child.wait()
                print("stopped; the same command continues from here")
                return 130
    if child.returncode:
        print("\n".join([f"\nprofile {profile} is not finished:", *failed] if failed else [log.read_text()[-3000:]]))
        print(f"whole log: {log}")
        return 1
    if "Nothing to be done" in log.read_text():
        print(f"nothing to do: all results of profile {profile} are up to date")
    return _summary(profile, time.monotonic() - start)


def _show(child: subprocess.Popen, source) -> list[str]:
    """Print the lines of the growing log that matter until the child ends; returns the lines of failures."""
    failed, count = [], ""
    while True:
        ended = child.poll() is not None
        for line in source:
            line = line.rstrip()
            if found := COUNT.match(line):
                count = f"[{found[1]}/{found[2]}] "
            elif SHOWN.match(line):
                print(f"{count}{line}", flush=True)
                failed += [line] if line.startswith("FAILED ") else []
        if ended:
            return failed
        time.sleep(0.3)


def _summary(profile: str, seconds: float) -> int:
    """Print the main table and where the report is; returns the exit status, 1 if there is no report after all."""
    table = results.root(profile) / "tables" / "main.md"
    if table.is_file():
        print(f"\n{table.read_text()}")
    report = results.root(profile) / "report" / "index.html"
    if not report.is_file():
        print(f"profile {profile} has no report; whole log: {results.root(profile) / 'run.log'}")
        return 1
    print(f"report: {report}   ({seconds:.0f} s)")
    return 0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="run_all.sh", description="Reproduce a profile of the study.")
    parser.add_argument("profile", nargs="?", default="sample")
    parser.add_argument("--dry-run", action="store_true", help="list the runs with their budgets and stop")
    parser.add_argument("--jobs", type=int, default=0, help="CPU cores to use (default: all for sample, cpu; else 1)")
    parser.add_argument("--no-graphs", action="store_true", help="train without CUDA graphs on a GPU, too")
    parser.add_argument("--so-far", action="store_true", help="train nothing: tables and report of the finished runs")
    parser.add_argument("--slurm", action="store_true", help="send every step to SLURM (profiles/slurm/config.yaml)")
    parser.add_argument("--keep-going", action="store_true", help="go on with independent steps after a failure")
    options = parser.parse_args(words)
    try:
        results.absolute_folders()  # Snakemake's jobs stand in the results' folder
        table = plan(options.profile)
        if options.jobs < 0:
            raise InputError(f"--jobs must be an integer >= 1, got {options.jobs}")
        missing = missing_data(options.profile)
        if options.dry_run:
            print(table.to_string(index=False))
            todo = table.state.str.startswith("to do").sum()
            print(f"\n{len(table)} runs, {todo} to do; results go to {results.root(options.profile)}")
            print("\n".join(missing))
            return 0
        if missing:
            raise InputError(missing[0])
        extra = again(options.profile)
        extra += ["--keep-going"] if options.keep_going else []
        extra += cluster_options(options.jobs) if options.slurm else []
        config = ["no_graphs=True"] * options.no_graphs + ["so_far=True"] * options.so_far
        extra += ["--config", f"profile={options.profile}", *config] if config else []
        on_cpu = options.profile in ("sample", "cpu", "smoke")
        return run(options.profile, options.jobs or (cores() if on_cpu else 1), extra, here=not options.slurm)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
