"""What the documents promise exists: commands, options, recipes, links; the locks cover every import."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
OWN = {"tfrec", "pipelines", "tests", "benchmarks", "deploy"}


def pins(name):
    """distribution -> version of a requirements file; names as PyPI normalises them."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", "-")):
            match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.+]+)", line)
            assert match, f"{name}: {line!r} is not pinned"
            found[normal(match[1])] = match[2]
    return found


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def documented_commands():
    """(document, words) of every `python -m MODULE ...` in a code block or in backticks."""
    for document in [*DOCUMENTS, ROOT / "Makefile"]:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ").replace("$(PY)", "python")
        text = re.sub(r"\$\(\w+\)", "X", re.sub(r"\$\(if [^\n]*", "", text))
        text = text.replace("benchmarks.$$name", "")  # make bench names them one by one
        for command in re.findall(r"python -m ((?:tfrec|pipelines|benchmarks)[^\n`#|;]*)", text):
            yield pytest.param(command, id=f"{document.name}: {command.strip()[:70]}")


@cache
def help_of(*words):
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_exist_with_their_options(command):
    words = shlex.split(re.sub(r"[\[\]]", " ", command))
    assert importlib.util.find_spec(words[0]), f"no module {words[0]}"
    if words == ["pipelines"] or not any(word.startswith("--") for word in words):
        return
    named = [word for word in words[1:2] if words[0] == "pipelines" and word.islower()]
    recipe = words[words.index("--recipe") :][:2] if "--recipe" in words else []
    if recipe and not recipe[1].isupper():
        assert (ROOT / "tfrec" / "recipes" / f"{recipe[1]}.yaml").is_file() or recipe[1].endswith(".yaml")
        named = recipe
    if words[0] == "pipelines" and not named:
        return  # `python -m pipelines DATASET ...`
    text = help_of(words[0], *named)
    options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
    assert not [option for option in options if not re.search(rf"{re.escape(option)}(?![\w-])", text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_and_links_in_documents_exist(document):
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.M))
    assert named <= targets
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


REFERENCE = ROOT / "docs" / "reference.md"


def test_the_reference_lists_every_recipe_with_its_data():
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", REFERENCE.read_text().split("## Preparing")[0], re.M)
    assert [name for name, _ in rows] == list(dict(rows))
    assert set(dict(rows)) == {path.stem for path in (ROOT / "tfrec" / "recipes").glob("*.yaml")}
    datasets = {name for _, data in rows for name in re.findall(r"`(\w+)`", data)}
    assert not [name for name in datasets if importlib.util.find_spec(f"pipelines.{name}") is None]


def test_the_options_of_the_reference_exist():
    text = REFERENCE.read_text()
    config = help_of("tfrec.train", "--recipe", "hm-small")
    named = set(re.findall(r"`((?:model|task|training|evaluation)\.[a-z_.]+)`", text))
    assert len(named) > 6
    assert not [name for name in named if not re.search(rf"--{re.escape(name)}\b", config)]
    for module, cell in re.findall(r"^\| `(tfrec\.\w+)` \| (.*?) \|", text, re.M):
        assert not [option for option in re.findall(r"--[a-z-]+", cell) if option not in help_of(module)]


@pytest.mark.parametrize("page", ["reference.md", "metric-learning.md"])
def test_the_sweep_file_of_a_page_is_one(page, tmp_path):
    from tfrec.config import parse_config, read_yaml, recipe_path
    from tfrec.sweep import read_sweep

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    (tmp_path / "sweep.yaml").write_text(text)
    for trial in read_sweep(tmp_path / "sweep.yaml").trials():
        layer = read_yaml(recipe_path(trial.options["recipe"]))
        options = [f"--{name}={value}" for name, value in trial.options.items()]
        parse_config(layer.pop("system"), [layer], options)


def test_the_locks_hold_every_direct_requirement():
    lock, development = pins("requirements.txt"), pins("requirements-dev.txt")
    assert pins("requirements.in").items() <= lock.items()
    assert pins("requirements-dev.in").items() <= development.items()
    both = lock.keys() & development.keys()
    assert {name: lock[name] for name in both} == {name: development[name] for name in both}


def imported(folder):
    """Third-party distributions that the code of a folder needs, with one importing file each."""
    found = {}
    providers = packages_distributions()
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
        optional = {
            inner
            for node in tries
            if any("ImportError" in ast.unparse(handler.type or handler) for handler in node.handlers)
            for line in node.body
            for inner in ast.walk(line)
        }
        for_types = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in set(ast.walk(tree)) - optional - for_types:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {name.split(".")[0] for name in names} - OWN - set(sys.stdlib_module_names):
                found[top] = ({normal(name) for name in providers.get(top, [top])}, path.name)
    return found


@pytest.mark.parametrize("folder", ["tfrec", "pipelines"])
def test_what_the_program_imports_is_a_direct_requirement(folder):
    direct = pins("requirements.in").keys()
    missing = {top: file for top, (names, file) in imported(folder).items() if not names & direct}
    assert not missing


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "deploy"])
def test_what_tests_and_benchmarks_import_is_locked(folder):
    locked = pins("requirements.txt").keys() | pins("requirements-dev.txt").keys()
    missing = {top: file for top, (names, file) in imported(folder).items() if not names & locked}
    assert not missing


def test_the_license_is_what_the_package_says():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_ci_runs_in_a_strict_shell():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_make_without_python_3_11_says_what_to_install(tmp_path):
    done = subprocess.run(
        ["make", "test", f"VENV={tmp_path}/venv", "PYTHON="], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "no Python 3.11 found" in done.stderr
    other = subprocess.run(
        ["make", "demo", f"VENV={tmp_path}/venv", "PYTHON=false"], cwd=ROOT, capture_output=True, text=True
    )
    assert other.returncode != 0
    assert "is not Python 3.11" in other.stderr
