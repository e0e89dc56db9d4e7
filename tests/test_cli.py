"""The command igconv: what it prints, and one line with a status for what is wrong."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from photo import photo

import igconv
from igconv import cli, commands, files
from igconv.data import datasets
from igconv.study import runs
from igconv.study.results import PROJECT
from igconv.study.runs import get_run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nosuch"], "unknown run of profile sample 'nosuch'"),
        (["train", "x", "--profile", "nosuch"], "unknown profile 'nosuch'; choose from benchmark, cpu, paper, sample"),
        (["evaluate", "edsr_tiny-igconv-s0"], "is not trained yet"),
        (["export", "edsr_tiny-igconv-s0"], "is not trained yet"),
        (["export", "nosuch"], "unknown run of profile sample 'nosuch'"),
        (
            ["export", "edsr_tiny-igconv-s0", "edsr_tiny-igconv+-s0", "-o", "x.safetensors"],
            "name one run for -o; got 2",
        ),
        (["data", "verify", "nosuch"], "unknown image set or weights 'nosuch'"),
        (["data", "fetch", "nosuch"], "unknown image set or weights 'nosuch'"),
        (["data", "fetch"], "name what to fetch"),
        (["data", "fetch", "Manga109"], "Manga109 cannot be fetched: apply at http"),
    ],
)
def test_unknown_names_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_train_then_evaluate(tmp_path, monkeypatch, capsys):
    """A run of two steps, from the command line to its rows."""
    monkeypatch.setenv("IGCONV_RESULTS", str(tmp_path))
    run = replace(get_run("smoke", "edsr_tiny-spconv-x2-s0"), steps=2)
    monkeypatch.setattr(runs, "get_run", lambda profile, name: run)
    assert cli.main(["train", run.name, "--profile", "smoke", "--accelerator", "cpu"]) == 0
    assert f"{run.name}: step 2/2" in capsys.readouterr().out
    assert cli.main(["evaluate", run.name, "--profile", "smoke"]) == 0
    assert "sample_test" in capsys.readouterr().out
    assert (tmp_path / "smoke" / "rows" / f"{run.name}.csv").is_file()


def test_data_lists_the_catalogue(capsys, tmp_path):
    """Sets and weights with address and terms; a checksum that nobody knows is "unknown"."""
    assert cli.main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for word in ("Set5", "not here", "DIV2K + Flickr2K", "bsrn_x2", "EDSR_IGConv_DIV2K", "checksum: unknown"):
        assert word in shown
    assert cli.main(["data", "list", "DIV2K"]) == 0
    assert "Set5" not in capsys.readouterr().out


def test_data_verify_names_what_is_wrong(image_sets, capsys):
    """A set that is not here is no failure, one that is wrong is; --data-dir names the root."""
    assert cli.main(["data", "verify", "--data-dir", str(image_sets)]) == 0
    shown = capsys.readouterr().out
    assert "tiny_train: ok" in shown
    assert "bsrn_x2: not here" in shown
    (image_sets / "train" / "tiny" / "1.png").write_bytes(b"broken")
    assert cli.main(["data", "verify"]) == 2
    shown = capsys.readouterr()
    assert "tiny_train: wrong\n    " in shown.out
    assert "unreadable: cannot read" in shown.out
    assert shown.err == "error: not as catalogued: tiny_train\n"
    assert cli.main(["data", "verify", "tiny_test", "--data-dir", str(image_sets / "none")]) == 2
    assert "tiny_test not found" in capsys.readouterr().out


def test_data_fetch_says_what_it_did(image_sets, monkeypatch, capsys):
    """A set that users bring, and which is here."""
    mine = replace(datasets.image_set("tiny_train"), name="mine", bring="ask for it")
    monkeypatch.setattr(datasets, "catalogue", lambda: {"mine": mine})
    assert cli.main(["data", "fetch", "mine", "--data-dir", str(image_sets)]) == 0
    assert "mine: 3 images, here already" in capsys.readouterr().out


def test_help_is_light():
    """`igconv --help` imports nothing that takes long."""
    code = """
import sys
from igconv import cli
cli.main(["--help"])
heavy = ("torch", "matplotlib", "lightning_fabric", "skimage", "pandas", "numpy", "tyro")
print([m for m in heavy if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr


def test_help_names_every_command():
    """With what each is for; and each is a function with options of its own."""
    listed = {line.split()[0] for line in cli.HELP.splitlines() if line.startswith("  ") and line[2:8] != "igconv"}
    assert listed == set(cli.COMMANDS)
    assert all(callable(getattr(commands, name)) for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_ends_with_examples(command, capsys):
    """Every example is a command line with known options; what may be left out is said in words."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.endswith(cli.EXAMPLES[command])
    assert command == "train" or "None" not in shown
    lines = [line for line in [*cli.EXAMPLES[command].splitlines(), *cli.HELP.splitlines()] if "  igconv " in line]
    for program, name, *words in map(shlex.split, lines):
        assert program == "igconv"
        if name in cli.COMMANDS:
            assert callable(cli._parsed(getattr(commands, name), f"igconv {name}", words))


def test_words_that_are_no_command(capsys):
    assert cli.main(["enlarge"]) == 2
    assert "unknown command 'enlarge'; choose from convert" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert "usage: igconv" in capsys.readouterr().err


# ---- info


def test_info_says_what_a_file_is(weights, tmp_path, capsys):
    assert cli.main(["info", str(weights), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["encoder"], facts["upsampler"], facts["scales"]) == ("edsr_tiny", "igconv+", [2, 3])
    assert facts["parameters"] == sum(value.numel() for value in igconv.load(weights).state_dict().values())
    assert (facts["precision"], facts["licence"], facts["other_scales"]) == (["F32"], "", True)
    assert cli.main(["info", str(weights)]) == 0
    assert "not stated in the file" in capsys.readouterr().out
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "smfanet_plus" in shown
    assert "Apache-2.0" in shown
    for name, content in (("text.safetensors", b"no weights"), ("none.safetensors", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        assert cli.main(["info", str(tmp_path / name)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("upsampler", ["igconv", "spconv"])
def test_scales_that_a_model_has_not_are_refused(tmp_path, capsys, upsampler):
    """A converted model's kernels are fitted at its scales; elsewhere its images would be garbage."""
    options = dict(basis=True, hidden_dim=8, num_layers=1) if upsampler == "igconv" else {}
    model = igconv.build_model("edsr_tiny", upsampler, scales=(2, 3), channels=4, blocks=1, **options)
    igconv.save(model, tmp_path / "made.safetensors")
    words = ["upscale", str(photo(tmp_path / "in.png")), "-o", str(tmp_path / "out.png"),
             "--weights", str(tmp_path / "made.safetensors"), "--scale"]  # fmt: skip
    assert cli.main([*words, "4"]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert "made for scale 2, 3, not 4; `igconv convert --scales 2 3 4`" in line
    assert not (tmp_path / "out.png").exists()
    for given in (model, tmp_path / "made.safetensors"):
        with pytest.raises(igconv.InputError, match="igconv convert --scales"):
            igconv.upscale(np.zeros((4, 4, 3), np.uint8), 5, given)
    assert cli.main([*words, "3"]) == 0


# ---- signals and pipes, in processes of their own

HELD = """
import sys, time
from igconv import cli, commands, files
def held(*_, **__):
    print("ready", flush=True)
    time.sleep(600)
"""
WAITING = {
    "upscale": "from igconv.models import inference; inference.upscale = held",
    "train": "from igconv.training import loop; loop.train = held",
    "evaluate": "from igconv.evaluation import benchmark; benchmark.evaluate_bicubic = held",
    "data": "from igconv.data import download; download.fetch = held",
}
WORDS = {
    "upscale": ["upscale", "in.png", "-o", "out.png"],
    "train": ["train", "edsr_tiny-igconv-s0"],
    "evaluate": ["evaluate", "bicubic"],
    "data": ["data", "fetch", "Set5"],
}


def interrupted(code: str, *words, cwd) -> tuple[int, str]:
    """Status and stderr of a process that gets Ctrl-C when it has said that it is ready."""
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(PROJECT)},
                          # Jobs in the background of a shell ignore SIGINT, and their children would, too.
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:  # fmt: skip
        for line in process.stdout:
            if "ready" in line or "waiting" in line:
                break
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=300), process.stderr.read()


@pytest.mark.parametrize("command", WAITING)
def test_ctrl_c_is_one_line_and_130(tmp_path, command):
    """In the middle of the work."""
    photo(tmp_path / "in.png")
    code = f"{HELD}{WAITING[command]}\nsys.exit(cli.main(sys.argv[1:]))"
    assert interrupted(code, *WORDS[command], cwd=tmp_path) == (130, "interrupted\n")
    assert not (tmp_path / "out.png").exists()


def test_ctrl_c_while_waiting_for_a_lock(tmp_path):
    """The wait is inside a system call."""
    code = f"""{HELD}
def locked(*_, **__):
    with files.exclusive("lock", wait=True, who="the lock"):
        pass
from igconv.data import download
download.fetch = locked
sys.exit(cli.main(["data", "fetch", "Set5"]))"""
    with files.exclusive(tmp_path / "lock", wait=False, who="the test"):
        assert interrupted(code, cwd=tmp_path) == (130, "interrupted\n")


def test_a_closed_pipe_is_silent():
    """`igconv data list | head -1`, also for what stood in a buffer until the end."""
    for words in ("data list", "--help"):
        line = f"{sys.executable} -m igconv.cli {words} | true"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=PROJECT)
        assert done.stderr == ""
