"""How many cores a process counts, alone and in a container with a limit."""

import os

import pytest

from pipelines import processor


@pytest.mark.parametrize(
    ("files", "counted"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "nothing known\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_containers_limit_is_counted_and_not_the_machines_cores(tmp_path, monkeypatch, files, counted):
    monkeypatch.setattr(processor, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processor.cores() == counted


@pytest.mark.parametrize(
    ("files", "limited"),
    [
        ({}, False),
        ({"memory.max": "max\n"}, False),
        ({"memory.max": "1048576\n"}, True),
        ({"memory/memory.limit_in_bytes": "1048576\n"}, True),
        ({"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, False),
    ],
)
def test_a_containers_memory_is_counted_and_not_the_machines(tmp_path, monkeypatch, files, limited):
    monkeypatch.setattr(processor, "CONTROL_GROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert processor.memory() == (1 << 20 if limited else machine)
