"""The server runs under an allocator that swaps do not slow down."""

import os
import subprocess
import sys

import pytest

from tfrec.serve import allocator
from tfrec.serve.allocator import find_allocator, use_allocator
from tfrec.serve.errors import ServeConfigError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="an allocator is chosen on Linux alone")


@pytest.fixture
def executed(monkeypatch):
    """Calls of the function that would replace the process."""
    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    calls = []
    return calls, lambda *call: calls.append(call)


@LINUX
def test_a_process_is_started_again_with_its_own_words(executed, monkeypatch, tmp_path):
    library = tmp_path / "lib.so"
    library.touch()
    calls, execute = executed
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tfrec.serve", "--port", "0"])
    use_allocator(str(library), execute)
    ((program, words, environment),) = calls
    assert program == sys.executable
    assert words == [sys.executable, "-m", "tfrec.serve", "--port", "0"]
    assert environment == os.environ | {"LD_PRELOAD": str(library)}


@LINUX
def test_who_has_chosen_is_left_alone(executed, monkeypatch):
    calls, execute = executed
    use_allocator("system", execute)
    monkeypatch.setattr(allocator, "find_allocator", lambda: None)
    use_allocator("auto", execute)  # nothing better is installed
    monkeypatch.setenv("LD_PRELOAD", "/mine.so")
    use_allocator("auto", execute)
    assert calls == []
    assert allocator.allocator_in_use() == "mine.so"


@LINUX
def test_a_wrong_path_is_told(executed):
    with pytest.raises(ServeConfigError, match="no/such.so: no such file; give auto, system or the path"):
        use_allocator("no/such.so", executed[1])


@LINUX
def test_without_jemalloc_it_is_the_package(monkeypatch):
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: None)
    assert find_allocator().endswith("libmimalloc.so")
    monkeypatch.setattr(allocator, "files", _missing)
    assert find_allocator() is None


def _missing(package: str):
    raise allocator.PackageNotFoundError(package)


@LINUX
@pytest.mark.parametrize("choice", ["auto", "system"])
def test_the_command_runs_under_it(choice, tmp_path):
    """Seen in the process's own map of memory, from inside: `-c` stands for the command, which would load TensorFlow."""
    code = (
        "import sys; from tfrec.serve.allocator import use_allocator; use_allocator(sys.argv[1]); "
        "print(any('malloc' in line for line in open('/proc/self/maps')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    ran = subprocess.run(
        [sys.executable, "-c", code, choice], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [str(choice == "auto")]
    assert ran.stderr == ""
