"""What this process may compute with."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own


def cores() -> int:
    """How many cores this process may use: as many as the scheduler gives it, and no more than its container's limit.

    A container of two cores on a machine of 64 may run on all of them, though no longer than two would: with a thread for
    each, most of them wait until the next tenth of a second.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _container_cores())))


def _container_cores() -> float:
    """The processor time that a container has, in cores; infinite without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files, and the same of version 1.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((CONTROL_GROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if int(quota) < 0 else int(quota) / int(period)
    return math.inf


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, and no more than its container's limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and the same of version 1.
    """
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            return min(most, int((CONTROL_GROUP / name).read_text()))
    return most


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False
