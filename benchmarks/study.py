"""Where the time of ``./run_all.sh PROFILE`` went: seconds of every step, from Snakemake's own records.

python benchmarks/study.py [--profile sample] [--label clean]

Steps run side by side, so their sum is more than the time from the first one's start to the last one's end, which is
the row ``whole``. Steps that were made again at a later call make the whole useless: measure in an empty folder.
"""

import json
from pathlib import Path

import pandas as pd
import tyro
from timing import RESULTS, report

from igconv.errors import InputError
from igconv.study import results

WHOLE = "whole"


def steps(root: Path) -> pd.DataFrame:
    """step (its notebook, or the name of its rule), start_s (after the first one's) and seconds, in order of start.

    Raises InputError where Snakemake has left no record.
    """
    found = {}
    for path in (root / ".snakemake" / "metadata").rglob("*"):
        if path.is_file():  # one for each output of a step
            record = json.loads(path.read_text())
            notebooks = [Path(log).stem for log in record["log"] if log.endswith(".ipynb")]
            found[(notebooks or [record["rule"]])[0]] = record["starttime"], record["endtime"]
    if not found:
        raise InputError(f"{results.shown(root)} holds no record of Snakemake: run ./run_all.sh first")
    table = pd.DataFrame([(step, *times) for step, times in found.items()], columns=["step", "start", "end"])
    table = table.sort_values("start", ignore_index=True)
    whole = pd.DataFrame([(WHOLE, table.start.min(), table.end.max())], columns=list(table))
    table = pd.concat([table, whole], ignore_index=True)
    return pd.DataFrame(dict(step=table.step, start_s=table.start - table.start.min(), seconds=table.end - table.start))


def main(profile: str = "sample", label: str = "", out: Path = RESULTS) -> None:
    """Read, print, write.

    Args:
        label: of the file, beside the profile's name.
    """
    table = steps(results.root(profile))
    report(table, "-".join(filter(None, ["study", profile, label])), out=out)


if __name__ == "__main__":
    tyro.cli(main)
