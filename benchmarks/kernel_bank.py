"""Time and peak memory of making a kernel bank, against the same function layer by layer on an r x r grid.

Each form is measured in processes of its own: what one leaves to the allocator would speed up the other.

python benchmarks/kernel_bank.py [--device cuda]
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
import tyro
from timing import RESULTS, in_fresh_process, interleaved, peak_memory_mib, report, summary
from torch import Tensor

from igconv.models.hypernetwork import HyperNetwork, subpixel_centres
from igconv.models.inference import keep_freed_memory

SCALES, WIDTHS = (2, 3, 4, 8, 32), (64, 256)
# The baseline keeps about this many activations of all rows at once in forward and backward: what would not fit into
# the memory that is free is not run.
ACTIVATIONS_KEPT = 16
MANY_ROWS = 10_000  # banks with more rows in the MLP are measured in one process per form, not in three


def layer_by_layer(net: HyperNetwork, scale: int) -> Tensor:
    """THE BASELINE: the kernel bank as its definition reads, (3 r^2, C, k, k); equal to ``net.generate(scale)``.

    Every kernel entry is a sample of a batch, every sub-pixel a pixel of its r x r picture, every layer a 1x1
    convolution. Latents are repeated over the picture, and cosines and sines taken at every pixel.
    """
    centres = subpixel_centres(scale, net.freq.device, net.freq.dtype)
    dy, dx = torch.meshgrid(centres, centres, indexing="ij")
    zx, zy = net.freq[:, :, None, None].repeat(1, 1, scale, scale).chunk(2, dim=1)
    amplitude = net.amplitude[:, :, None, None].repeat(1, 1, scale, scale)
    phase = net.phase(net.freq.new_full((1,), 2.0 / min(scale, net.max_scale)))
    theta = torch.pi * (zx * dx + zy * dy + phase[:, None, None])
    x = amplitude * torch.cat([theta.cos(), theta.sin()], dim=1)
    *hidden, last = net.query_kernel[::2]
    for layer in hidden:
        x = F.conv2d(x, layer.weight[:, :, None, None], layer.bias).relu()
    x = F.conv2d(x, last.weight[:, :, None, None], last.bias)
    x = x.unflatten(0, (net.in_channels, net.kernel_size, net.kernel_size)).permute(3, 4, 5, 0, 1, 2)
    return x.flatten(0, 2)


FORMS: dict[str, Callable[[HyperNetwork, int], Tensor]] = {
    "layer by layer": layer_by_layer,
    "igconv": HyperNetwork.generate,
}


def call(net: HyperNetwork, form: str, scale: int, backward: bool) -> None:
    """One bank, and with ``backward`` the gradients of all parameters."""
    with torch.set_grad_enabled(backward):
        bank = FORMS[form](net, scale)
    if backward:
        net.zero_grad()
        bank.sum().backward()


def hyper_network(width: int, device) -> HyperNetwork:
    torch.manual_seed(0)
    return HyperNetwork(width, 3).to(device)


def cost(form: str, width: int, scale: int, backward: bool, device: str, threads: int, seconds: float, keep: bool):
    """(median ms, median processor ms, peak MiB of the first call) in this process, after a call at x1."""
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    net = hyper_network(width, device)
    run = lambda: call(net, form, scale, backward)  # noqa: E731
    call(net, form, 1, backward)
    peak = peak_memory_mib(run, device)
    times = interleaved({form: run}, device, rounds=1, warmup=0)
    rounds = min(30, int(1000 * seconds / times.ms[0]))
    if rounds > 1:
        times = interleaved({form: run}, device, rounds, warmup=0)
    return times.ms.median(), times.cpu_ms.median(), peak


def free_bytes(device) -> float:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def measure(width: int, scale: int, backward: bool, device: str, seconds: float, keep: bool) -> pd.DataFrame:
    """One row per form: time, peak memory (median over processes) and ratios to the baseline."""
    hidden_dim, rows_in_mlp = 256, width * 9 * scale**2
    fits = rows_in_mlp * hidden_dim * 4 * ACTIVATIONS_KEPT < 0.7 * free_bytes(device)
    rows = []
    for number in range(1 if rows_in_mlp > MANY_ROWS or not seconds else 3):
        for form in FORMS if fits else ("igconv",):
            args = form, width, scale, backward, device, torch.get_num_threads(), seconds, keep
            ms, cpu_ms, peak = in_fresh_process(cost, *args)
            rows.append(dict(case=form, round=number, ms=ms, cpu_ms=cpu_ms, peak_mib=peak))
    rows = pd.DataFrame(rows)
    table = summary(rows, "layer by layer" if fits else None)
    table["peak_mib"] = table.case.map(rows.groupby("case").peak_mib.median())
    if fits:
        table["peak_ratio"] = table.peak_mib / table.peak_mib[0]
    return table.rename(columns={"case": "form", "rounds": "processes"})


def main(
    device: str = "cpu",
    scales: tuple[int, ...] = SCALES,
    widths: tuple[int, ...] = WIDTHS,
    threads: int = 2,
    seconds: float = 2.0,
    keep_memory: bool = False,
    out: Path = RESULTS,
    quick: bool = False,
) -> None:
    """Kernel banks of all scales and widths, forward and forward + backward.

    Args:
        scales: factors r.
        widths: feature channels C.
        threads: of the CPU.
        seconds: time spent on a bank in each process, after two calls that are not counted (one, for long ones).
        keep_memory: have malloc keep freed blocks (`igconv.models.inference.keep_freed_memory`): another table.
        quick: one small bank, forward and backward.
    """
    torch.set_num_threads(threads)
    if quick:
        scales, widths, seconds = (2,), (4,), 0.0
        torch.set_num_threads(1)
    tables = []
    for width in widths:
        for scale in scales:
            for backward in (True,) if quick else (False, True):
                table = measure(width, scale, backward, device, seconds, keep_memory)
                what = "forward + backward" if backward else "forward"
                for name, value in (("what", what), ("scale", scale), ("width", width)):
                    table.insert(0, name, value)
                tables.append(table)
                print(f"width {width}, x{scale}, {what}: done", flush=True)
    report(pd.concat(tables), "kernel_bank_kept_memory" if keep_memory else "kernel_bank", device, out)


if __name__ == "__main__":
    tyro.cli(main)
