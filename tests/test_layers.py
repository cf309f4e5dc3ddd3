"""The modules keep the order of the line in docs/architecture.md; heavy imports stay where they belong."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "tfrec")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
COMMANDS = sorted(
    name for name, path in MODULES.items() if re.search(r'^if __name__ == "__main__":', path.read_text(), re.M)
)


def line_of_the_document():
    """module -> place on the line, e.g. `tfrec.fusion` before `tfrec.towers`; alternatives share a place."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    line = text.split("raw files", 1)[1].split("\n\n", 1)[0]
    steps = [re.findall(r"(?:pipelines|tfrec)/(\w+)", step) and step for step in re.split(r"─*>", line)]
    places = {}
    for place, step in enumerate(step for step in steps if step):
        for package, name in re.findall(r"(pipelines|tfrec)/(\w+)", step):
            places[f"{package}.{name}"] = place
    return places


PLACES = line_of_the_document()


@cache
def imports(module):
    """The project's modules that `module` imports anywhere in its code, except for annotations alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: write imports in full, not relative"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name in MODULES and name not in PACKAGES and name != module)


def reachable(module):
    """Every module of the project that importing `module` and calling all of it would import."""
    seen, todo = set(), [module]
    while todo:
        for name in imports(todo.pop()) - seen:
            seen.add(name)
            todo.append(name)
    return seen


def place(module):
    """The place of a module, or of the package it is part of; None for a helper beside the line."""
    while module:
        if module in PLACES:
            return PLACES[module]
        module = module.rpartition(".")[0]
    return None


def test_the_line_is_found_in_the_document():
    assert len(PLACES) >= 13
    assert PLACES["pipelines.batches"] < PLACES["tfrec.encoders"] < PLACES["tfrec.models"] < PLACES["tfrec.train"]
    assert PLACES["tfrec.retrieve"] == PLACES["tfrec.serve"] > PLACES["tfrec.export"]


@pytest.mark.parametrize("module", [name for name in MODULES if place(name) is not None])
def test_a_module_reaches_only_what_stands_before_it(module):
    """Helpers that are not on the line may be used anywhere, but they are no way around it."""
    later = {name for name in reachable(module) if (place(name) or 0) > place(module)}
    beside = {
        name
        for name in reachable(module)
        if place(name) == place(module) and name.split(".")[:2] != module.split(".")[:2]
    }
    assert not later, f"{module} stands before {sorted(later)} in docs/architecture.md"
    assert not beside, f"{module} stands beside {sorted(beside)} in docs/architecture.md"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("pipelines")])
def test_pipelines_know_nothing_of_models(module):
    assert not [name for name in imports(module) if name.startswith("tfrec.")]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in PACKAGES])
def test_no_module_imports_itself_in_a_circle(module):
    assert module not in reachable(module)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_tensorflow(command):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{command}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    heavy = [name for name in ('tensorflow', 'tf_keras', 'torch') if name in sys.modules]\n"
        "    sys.exit(f'{heavy} imported' if heavy else end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def run_python(code, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables,
    )


@pytest.mark.slow
def test_tfrec_after_a_keras_3_tensorflow_says_what_to_do():
    done = run_python("import tensorflow; import tfrec")
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert "Import tfrec first" in done.stderr


@pytest.mark.slow
def test_our_packages_pin_keras_2_and_do_not_pull_in_what_tfrec_does_not_use():
    code = (
        "import sys; import pipelines, tensorflow as tf; print(tf.keras.layers.Dense.__module__)\n"
        "from pipelines.keras_packages import keras_cv; print({'torch', 'sklearn'} & {*sys.modules})\n"
        "import sklearn.cluster; print('fine')\n"
    )
    done = run_python(code)
    assert done.stdout.startswith("tf_keras."), done.stderr
    assert done.stdout.endswith("set()\nfine\n"), done.stderr


def test_a_tensorflow_on_keras_2_may_come_first():
    code = "import sys, types; sys.modules['tensorflow'] = types.ModuleType('tensorflow'); import tfrec"
    code += "; print('fine')"
    assert run_python(code, TF_USE_LEGACY_KERAS="1").stdout.strip() == "fine"
    assert "ImportError" in run_python(code).stderr


@pytest.mark.slow
def test_a_model_without_encoders_does_without_the_packages_of_encoders():
    """They take four of the ten seconds that a training needs to start."""
    code = (
        "import sys; import tfrec.training.trainer, tfrec.retrieval.assembly\n"
        "print({'keras_cv', 'keras_nlp', 'keras', 'sklearn', 'matplotlib', 'bokeh', 'umap'} & {*sys.modules})"
    )
    done = run_python(code)
    assert done.stdout == "set()\n", done.stderr
