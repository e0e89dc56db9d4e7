"""The command ``igconv``: its help, which loads nothing, and the statuses it ends with."""

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable

from igconv import files
from igconv.errors import InputError, reason

HELP = """usage: igconv COMMAND ...

Implicit grid convolution: one network for all integer super-resolution scales.

pictures
  upscale   make pictures larger, with the model that comes with the package or one of yours
  info      say what a model file is
  convert   make a network of one scale a network of several
  export    write a model for passing on: for ONNX, for PyTorch alone, for spandrel, or small
the study
  train     train a run of the table (igconv/study/runs.py); the same command resumes it
  evaluate  measure a model on the test sets
  data      list, fetch and verify image sets and published weights

examples
  igconv upscale photo.jpg -o large.png --scale 4
  igconv upscale holiday other.webp -o large/ --scale 2
  igconv info model.safetensors
  igconv export --format onnx --scale 3
  igconv COMMAND --help     options of a command

Exit status: 0 all done, 1 something was skipped or failed on the way, 2 wrong input, 130 interrupted.
"""
EXAMPLES = {
    "upscale": """
  igconv upscale photo.jpg -o large.png --scale 4
  igconv upscale holiday other.webp -o large/ --scale 2
  igconv upscale "holiday/*.jpg" -o large/ --width 1920
  igconv upscale photo.jpg -o large.jpg -s 3 --model my_model.safetensors
""",
    "info": """
  igconv info
  igconv info my_model.safetensors --json
""",
    "convert": """
  igconv convert my_x4.pth -o multi.safetensors --scales 2 3 4
  igconv upscale photo.jpg -o large.png --scale 3 --model multi.safetensors
""",
    "export": """
  igconv export --format onnx --scale 3
  igconv export my_model.safetensors --format torch --scale 2 -o my_x2.pt2
  igconv export edsr_tiny-igconv+-s0 --profile cpu --format onnx --scale 4
""",
    "train": """
  igconv train edsr_tiny-igconv+-s0
""",
    "evaluate": """
  igconv evaluate bicubic
  igconv evaluate edsr_tiny-igconv+-s0
""",
    "data": """
  igconv data list
  igconv data verify sample_test
""",
}  # of commands, in their help
COMMANDS = ("train", "evaluate", "export", "data", "upscale", "convert", "info")


def run(words: list[str]) -> int:
    """The status of a command line without its first word, ``igconv``."""
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]!r}; choose from {', '.join(sorted(COMMANDS))}")
    from igconv import commands

    return _parsed(getattr(commands, words[0]), f"igconv {words[0]}", words[1:])() or 0


def _parsed(command: Callable[..., int | None], name: str, words: list[str]) -> Callable[[], int | None]:
    """The call of a command with its options. Raises InputError for words that are none, instead of tyro's box."""
    import tyro  # takes longer than the help may

    @functools.wraps(command)
    def later(*values, **options) -> Callable[[], int | None]:
        return functools.partial(command, *values, **options)

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(later, prog=name, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as end:
        if not end.code:
            print(f"examples{EXAMPLES[name.split()[-1]]}", end="")
            raise
    lines = [line.strip(" │╭╮╰╯") for line in said.getvalue().splitlines()]
    ruled = [line if line.strip("─-") else "" for line in lines[1:]]  # the first is a title; rules part its paragraphs
    parts = [reason(part, None) for part in re.split(r"\n{2,}", "\n".join(ruled).strip())]
    raise InputError(f"{parts[0].rstrip('. ')}; {name} --help has the options")


def main(words: list[str] | None = None) -> int:
    files.absolute_folders()
    try:
        try:
            return run(sys.argv[1:] if words is None else words)
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not when Python ends
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # a TrainingError, or a device that refuses
        print(f"error: {reason(error, None)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has gone; what Python still holds must not complain at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:  # a file system that refuses where nobody asked it first
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as shells count a process that SIGINT ended


if __name__ == "__main__":
    sys.exit(main())
