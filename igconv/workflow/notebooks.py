"""Run a notebook with parameters, as the driver does: ``python -m igconv.workflow.notebooks IN OUT name=value ...``.

papermill only warns about a parameter the notebook does not have, takes ``2,3,4`` for a string, and counts a cell
that calls ``sys.exit(0)`` as success. All three are errors here. And it hands a tuple on as a string, which is mended.
"""

import ast
import logging
import os
import sys
import time
from pathlib import Path

import nbformat

from igconv.errors import InputError, choose, reason
from igconv.study import results
from igconv.workflow import forked, forkserver


def parameters(notebook: Path) -> dict[str, tuple[str, object]]:
    """name -> (annotated type, default) of the one cell tagged ``parameters``."""
    try:
        book = nbformat.read(notebook, 4)
    except Exception as error:  # nbformat raises many things, and an AttributeError for JSON that is no notebook
        raise InputError(f"cannot read {notebook}: not a notebook ({reason(error, 80)})") from None
    cells = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{notebook} has {len(cells)} cells tagged parameters; exactly one is needed")
    found = {}
    for statement in ast.parse(cells[0].source).body:
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            raise InputError(f"{notebook}: a parameter is written as `name: type = value  # help`")
        found[statement.target.id] = (ast.unparse(statement.annotation), ast.literal_eval(statement.value))
    return found


def convert(given: dict[str, str], known: dict[str, tuple[str, object]], notebook: Path) -> dict[str, object]:
    """Strings of a command line as values of the annotated types. Raises InputError for unknown names and types."""
    values = {}
    for name, text in given.items():
        kind = known[choose(name, known, f"parameter of {notebook.name}")][0]
        try:
            value = text if kind == "str" else ast.literal_eval(text)
            if kind == "float" and type(value) is int:
                value = float(value)
        except (ValueError, SyntaxError):
            value = None
        container, _, elements = kind.removesuffix("]").partition("[")
        wrong = type(value).__name__ != container
        if wrong or any(type(one).__name__ != elements.removesuffix(", ...") for one in (value if elements else ())):
            raise InputError(f"parameter {name} of {notebook.name} must be {kind}, got {text!r}")
        values[name] = value
    return values


def take_tuples() -> None:
    """papermill writes a tuple as the text of one; what `convert` returns is written as Python writes it."""
    from papermill.translators import PythonTranslator, papermill_translators

    class Literals(PythonTranslator):
        @classmethod
        def translate(cls, val):
            return repr(val)

    papermill_translators.register("python3", Literals)


def own_kernel() -> type:
    """A manager of kernels of this Python, whatever kernel a user has registered under the name "python3"."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    words = [*forked.COMMAND, forkserver.KERNEL, "-f", "{connection_file}"]

    class OwnKernel(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=words, display_name="Python 3", language="python")

    return OwnKernel


def execute(notebook: Path, output: Path, given: dict[str, str]) -> None:
    """Execute ``notebook`` into ``output``; what cells print appears here too. A failed copy is kept.

    Raises:
        InputError: no such notebook, or parameters it does not have.
        RuntimeError: a cell failed or left early; the message names notebook, cell and error in one line.
    """
    import papermill

    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    if not notebook.is_file():
        raise InputError(f"no notebook at {notebook}")
    values = convert(given, parameters(notebook), notebook)
    output.parent.mkdir(parents=True, exist_ok=True)
    take_tuples()
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls parameters unknown whose type it cannot read
    try:
        done = papermill.execute_notebook(
            _literal(notebook),
            _literal(output),
            values,
            kernel_name="python3",
            kernel_manager_class=own_kernel(),
            cwd=str(notebook.parent),
            progress_bar=False,
            stdout_file=sys.stdout,
        )
    except papermill.PapermillExecutionError as error:
        why = reason(f"{error.ename}: {error.evalue}", limit=None)
        raise RuntimeError(f"{notebook.name} failed in cell {error.cell_index}: {why}; see {output}") from None
    finally:
        _name_files_alone(output, notebook.name)
    for index, cell in enumerate(done.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None or any(o.output_type == "error" for o in cell.outputs):
            raise RuntimeError(f"{notebook.name} stopped early at cell {index}; see {output}")


def _name_files_alone(copy: Path, source: str) -> None:
    """papermill notes absolute paths; an executed copy, also a failed one, is committed and moved."""
    if copy.is_file():
        book = nbformat.read(copy, 4)
        book.metadata.papermill.update(input_path=source, output_path=copy.name)
        nbformat.write(book, copy)


def _literal(path: Path) -> str:
    """A path for papermill, which fills in ``{name}``."""
    return str(path).replace("{", "{{").replace("}", "}}")


def main(words: list[str]) -> int:
    if len(words) < 2 or any("=" not in word for word in words[2:]):
        print("usage: python -m igconv.workflow.notebooks NOTEBOOK OUTPUT [name=value ...]", file=sys.stderr)
        return 2
    os.environ |= forkserver.ENVIRONMENT
    results.absolute_folders()  # a kernel stands in the notebook's folder
    given = dict(word.split("=", 1) for word in words[2:])
    title = " ".join([Path(words[0]).stem, given.get("run", "")]).strip()
    start = time.monotonic()
    print(f"> {title}", flush=True)
    try:
        execute(Path(words[0]), Path(words[1]), given)
    except (InputError, RuntimeError, OSError) as error:
        print(f"FAILED {title}: {error}", flush=True)
        return 1
    print(f"< {title}: {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
