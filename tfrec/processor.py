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


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False
