"""Write results/parity: every encoder with every upsampler, against the authors' (`igconv.parity`).

IGCONV_REFERENCE=<folder of the reference vectors> python benchmarks/parity.py [encoder ...]
"""

import os
import sys
from pathlib import Path

from igconv import results
from igconv.parity import PAPER, parity, write

if __name__ == "__main__":
    reference = os.environ.get("IGCONV_REFERENCE")
    table = parity(sys.argv[1:] or PAPER, Path(reference) if reference else None)
    write(table, results.root("parity"))
    print(table.to_string(index=False))
    print(f"written to {results.root('parity')}")
