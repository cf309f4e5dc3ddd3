"""The notebook of the main job runs from its first cell to its last, on a tiny shop."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "main_job.ipynb"


def test_the_notebook_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.long
def test_the_notebook_runs_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TFREC_NOTEBOOK_SIZE", "tiny")
    monkeypatch.setenv("TFREC_NOTEBOOK_TRAIN_OPTIONS", "--training.epochs 1 --model.image.layers 1")
    monkeypatch.setenv("TFREC_NOTEBOOK_WORK", str(tmp_path))
    monkeypatch.setenv("TFREC_NOTEBOOK_PYTHON", sys.executable)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    (evaluation,) = [cell for cell in notebook.cells if "metrics.json" in cell.source and cell.cell_type == "code"]
    table = evaluation.outputs[-1]
    answers = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    assert "popularity" in table["data"]["text/plain"]
    assert "similar to" in answers
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "saved_models").glob("demo*/1/saved_model.pb"))
