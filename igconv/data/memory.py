"""Whether there is memory for what is asked, before the system ends the process without a word."""

import os
from pathlib import Path

from igconv.errors import InputError


def available() -> float:
    """Bytes that this process may still take: of the machine, of its control group, of its limit (inf if unknown)."""
    limits = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    group = [_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current")]
    if all(value.isdigit() for value in group):
        cached = dict(line.split() for line in _read("/sys/fs/cgroup/memory.stat").splitlines()).get("file", 0)
        limits.append(int(group[0]) - int(group[1]) + int(cached))  # files in memory give way
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            used = int((_read("/proc/self/statm").split() or ["0"])[0]) * os.sysconf("SC_PAGE_SIZE")
            limits.append(limit - used)
    except ImportError:  # Windows
        pass
    return max(0, min(limits)) if limits else float("inf")


def require(size: float, what: str, advice: str = "") -> None:
    """Raises InputError if ``what`` needs more bytes than there are; ``advice`` says what to do about it."""
    free = available()
    if size > free:
        raise InputError(f"{what} needs about {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free{advice}")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
