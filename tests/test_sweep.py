"""Sweeps: the grid, resuming, failures, statistics against closed forms, and the report of the comparison."""

import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfrec.analysis import statistics
from tfrec.analysis.inputs import AnalysisError
from tfrec.analyze import main as analyze
from tfrec.child_processes import Children
from tfrec.errors import SweepError
from tfrec.evaluation.names import sign_of
from tfrec.runs.lock import only_writer
from tfrec.sweep import flatten, main, read_results, read_sweep

ROOT = Path(__file__).parents[1]

# Stands for the training command: its recall is known, and `--fail` makes it fail.
TRAINER = """
import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(options["--out"]); out.mkdir(parents=True, exist_ok=True)
with open(out.parent.parent / "calls.txt", "a") as calls: calls.write(out.name + "\\n")
if options.get("--task.loss") == "broken" and not (out.parent.parent / "mended").exists(): sys.exit("diverged at step 3")
views = json.loads(options["--views"])
recall = 0.4 + 0.2 * len(views) + 0.05 * (options["--task.loss"] == "arcface") + 0.001 * int(options["--seed"])
(out / "metrics.json").write_text(json.dumps({"test": {"recall@1": recall, "map@r": recall / 2}, "name": "x"}))
(out / "history.csv").write_text("step,loss\\n1,3\\n2,1\\n")
"""


def _sweep_file(folder, losses=("arcface", "triplet")):
    (folder / "trainer.py").write_text(TRAINER)
    file = folder / "sweep.yaml"
    file.write_text(
        f"""
command: [python, {folder / "trainer.py"}]
options: {{recipe: compcars}}
axes:
  task.loss: [{", ".join(losses)}]
  views:
    front: {{views: [front]}}
    front+rear: {{views: [front, rear]}}
seeds: [0, 1, 2]
metrics: [recall@1, map@r]
"""
    )
    return file


def _calls(out):
    return (out / "calls.txt").read_text().split()


def test_grid_runs_once_and_becomes_one_table(tmp_path):
    out = tmp_path / "runs"
    assert main(["--config", str(_sweep_file(tmp_path)), "--out", str(out)]) == 0
    assert len(_calls(out)) == len(set(_calls(out))) == 12
    assert main(["--config", str(_sweep_file(tmp_path)), "--out", str(out)]) == 0
    assert len(_calls(out)) == 12
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 12
    row = table[(table["loss"] == "arcface") & (table["views"] == "front+rear") & (table["seed"] == 2)].iloc[0]
    assert row["test.recall@1"] == pytest.approx(0.852)
    result = read_results(out)[0]
    assert result["command"][0] == sys.executable
    assert result["options"]["seed"] in (0, 1, 2)
    assert len(list((out / "results").glob("2*Z_*.json"))) == 12


def test_a_metric_that_no_run_has_is_told(tmp_path, capsys):
    file = _sweep_file(tmp_path, ["arcface"])
    assert main(["--config", str(file), "--out", str(tmp_path / "runs")]) == 0
    assert "warning" not in capsys.readouterr().err
    file.write_text(file.read_text().replace("[recall@1, map@r]", "[recal@1, map@r]"))
    assert main(["--config", str(file), "--out", str(tmp_path / "runs")]) == 0
    assert "no run has the metric recal@1; near it: recall@1" in capsys.readouterr().err


def test_new_values_run_only_what_is_new(tmp_path):
    out = tmp_path / "runs"
    main(["--config", str(_sweep_file(tmp_path, ["arcface"])), "--out", str(out)])
    main(["--config", str(_sweep_file(tmp_path)), "--out", str(out), "--jobs", "2"])
    assert sorted(_calls(out)) == sorted({*_calls(out)})
    assert len(_calls(out)) == 12


def test_failed_runs_are_kept_and_tried_again(tmp_path, capsys):
    out = tmp_path / "runs"
    file = _sweep_file(tmp_path, ["arcface", "broken"])
    assert main(["--config", str(file), "--out", str(out)]) == 1
    failed = [result for result in read_results(out) if result["exit_code"]]
    assert len(failed) == 6
    assert "diverged at step 3" in failed[0]["error"]
    assert capsys.readouterr().out.count(": failed: diverged at step 3 (") == 6
    assert len(pd.read_csv(out / "results.csv")) == 6
    runs = statistics.read_runs(out)
    assert runs.failed["last line"].tolist() == ["diverged at step 3"] * 6
    (out / "mended").touch()
    assert main(["--config", str(file), "--out", str(out)]) == 0
    assert len(_calls(out)) == 18
    assert len(pd.read_csv(out / "results.csv")) == 12


def test_an_interrupted_run_is_taken_up_and_a_failed_one_begun_afresh(tmp_path):
    """Ctrl-C reaches the training as well, which ends with 130."""
    out = tmp_path / "runs"
    file = _sweep_file(tmp_path, ["broken"])
    trainer = tmp_path / "trainer.py"
    ending = "sys.exit(130 if options['--seed'] == '0' else 3)"
    trainer.write_text(TRAINER.replace('sys.exit("diverged at step 3")', ending))
    assert main(["--config", str(file), "--out", str(out)]) == 1
    for folder in (out / "runs").iterdir():
        (folder / "config.yaml").touch()  # it can be taken up from here
    trainer.write_text(TRAINER.replace("out.name +", "out.name + '!' * ('--resume' in sys.argv) +"))
    (out / "mended").touch()
    (out / "calls.txt").unlink()
    assert main(["--config", str(file), "--out", str(out)]) == 0
    assert [name.endswith("!") for name in sorted(_calls(out))] == ["seed0" in name for name in sorted(_calls(out))]


SLEEPER = """
import os, pathlib, subprocess, sys, time
out = pathlib.Path(dict(zip(sys.argv[1::2], sys.argv[2::2]))["--out"]); out.mkdir(parents=True, exist_ok=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(out / "pids.tmp").write_text(f"{os.getpid()} {child.pid}"); (out / "pids.tmp").rename(out / "pids")
time.sleep(600)
"""


def start_sweep(file, out):
    words = [sys.executable, "-m", "tfrec.sweep", "--config", str(file), "--out", str(out)]

    def hear():  # what a suite that runs in the background, or under nohup, ignores
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_DFL)

    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


def is_alive(pid):
    """Whether a process runs; what has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(true, seconds=60):
    latest = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < latest
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_sweep_ends_its_runs_and_what_they_started(tmp_path, how):
    file, out = _sweep_file(tmp_path, ["arcface"]), tmp_path / "runs"
    (tmp_path / "trainer.py").write_text(SLEEPER)
    sweep = start_sweep(file, out)
    pids = wait_for(lambda: list(out.glob("runs/*/pids")))[0].read_text().split()
    second = start_sweep(file, out)
    assert "another process writes there" in second.communicate(timeout=300)[1]
    assert second.returncode == 2
    sweep.send_signal(how)
    assert sweep.communicate(timeout=300)[1] == "interrupted\n"
    assert sweep.returncode == 130
    wait_for(lambda: not any(map(is_alive, pids)), 5)
    assert len(list(out.glob("runs/*"))) == 1
    assert [result["exit_code"] for result in read_results(out)] == [-signal.SIGTERM]


def test_a_run_that_another_process_writes_is_left_to_it(tmp_path, capsys):
    """A sweep that was killed leaves its training alive."""
    file, out = _sweep_file(tmp_path, ["arcface"]), tmp_path / "runs"
    busy = out / "runs" / next(read_sweep(file).trials()).name
    with only_writer(busy):
        assert main(["--config", str(file), "--out", str(out)]) == 1
    assert f"{busy.name}: left out, another process writes there" in capsys.readouterr().out
    assert busy.name not in _calls(out)
    assert main(["--config", str(file), "--out", str(out)]) == 0
    assert len(_calls(out)) == 6


def test_a_run_out_of_time_ends_with_what_it_started(tmp_path):
    (tmp_path / "trainer.py").write_text(SLEEPER)
    with Children() as children:
        code, said = children.run([sys.executable, str(tmp_path / "trainer.py"), "--out", str(tmp_path)], minutes=0.05)
    assert (code, said) == (124, "\nstopped after 0.05 minutes")
    pids = (tmp_path / "pids").read_text().split()
    wait_for(lambda: not any(map(is_alive, pids)), 5)


def test_dry_run_prints_and_runs_nothing(tmp_path, capsys):
    out = tmp_path / "runs"
    assert main(["--config", str(_sweep_file(tmp_path)), "--out", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("trainer.py") == 12
    assert """--views '["front", "rear"]'""" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options: {}", "no `axes`"),
        ("axes: {loss: []}", "axis 'loss'"),
        ("axes: {loss: {a: 3}}", "axis 'loss'"),
        ("axes: {a.loss: [1], b.loss: [2]}", "two axes"),
        ("axes: {loss: [a]}\nsede: 1", "'sede'"),
        ("axes: {loss: [a]}\n3: 1", "unknown key 3"),
        ("axes: [", "not valid YAML"),
        ("axes: {loss: [a]}\nseeds: 3", r"sweep.yaml: `seeds` must be a list of whole numbers.*got 3"),
        ("axes: {loss: [a]}\nseeds: []", "`seeds`"),
        ("axes: {loss: [a]}\nseeds: [0, true]", "`seeds`"),
        ("axes: {loss: [a]}\nmetrics: recall@1", r"sweep.yaml: `metrics` must be a list of names.*got 'recall@1'"),
        ("axes: {loss: [a]}\nmetrics: [1]", "`metrics`"),
        ("axes: {loss: [a]}\ncommand: python -m tfrec.train", "`command`"),
        ("axes: {loss: [a]}\ncommand: []", "`command`"),
        ("axes: {loss: [a]}\noptions: [recipe]", "`options`"),
        ("axes: {loss: [a]}\ntimeout_minutes: long", "`timeout_minutes`"),
        ("axes: {loss: [a]}\ntimeout_minutes: 0", "`timeout_minutes`"),
        ("axes: {seed: [0, 1]}", "`seed` is set for each run; give the key `seeds`"),
        ("axes: {loss: [a]}\noptions: {out: x}", "`out` is set for each run; give --out"),
    ],
)
def test_broken_sweep_files(tmp_path, text, message):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(SweepError, match=message):
        read_sweep(tmp_path / "sweep.yaml")


def test_keys_without_a_value_have_their_defaults(tmp_path):
    (tmp_path / "sweep.yaml").write_text("axes: {loss: [a]}\noptions:\nseeds:\nmetrics:\ntimeout_minutes: 1.5")
    sweep = read_sweep(tmp_path / "sweep.yaml")
    assert (sweep.options, sweep.seeds, sweep.metrics, sweep.timeout_minutes) == ({}, [0], [], 1.5)
    assert sweep.command == ["python", "-m", "tfrec.train"]


def test_flatten():
    assert flatten({"a": 1, "b": {"c": 2.5, "d": "x", "e": True}}) == {"a": 1, "b.c": 2.5}
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert flatten({"m": {"r@1": interval}}) == {"m.r@1": 0.5, "m.r@1.low": 0.4, "m.r@1.high": 0.6}


def test_the_dataset_can_be_named_on_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "runs")
    assert main(["--config", str(_sweep_file(tmp_path)), "--data", "elsewhere", "--out", out, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 12
    assert all("--data elsewhere" in line for line in lines)


def test_report_states_what_the_numbers_say(tmp_path):
    out = tmp_path / "runs"
    main(["--config", str(_sweep_file(tmp_path)), "--out", str(out)])
    assert analyze(["--runs", str(out), "--out", str(tmp_path / "report")]) == 0
    content = json.loads((tmp_path / "report" / "analysis.json").read_text())
    assert content["main"] == "test.recall@1"
    assert content["best"][0]["loss"] == "arcface"
    assert content["best"][0]["views"] == "front+rear"
    assert content["best"][0]["test.recall@1"] == pytest.approx(0.851)
    (views,) = content["tests"]["views"]
    assert (views["better"], views["worse"], views["pairs"], views["wins"]) == ("front+rear", "front", 6, 6)
    assert views["difference"] == pytest.approx(0.2)
    assert views["p"] == pytest.approx(2 / 2**6)
    assert any("front+rear beats front by 0.2000" in line for line in content["findings"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "front+rear beats front" in page
    for name in ("ranking", "by_loss", "heat_loss_views", "curves"):
        assert (tmp_path / "report" / f"{name}.svg").is_file()


def test_runs_of_an_earlier_sweep_file_are_not_averaged_in(tmp_path):
    out = tmp_path / "runs"
    file = _sweep_file(tmp_path, ["arcface"])
    trial = file.read_text()
    main(["--config", str(file), "--out", str(out)])
    file.write_text(trial.replace("recipe: compcars", "recipe: compcars, training.epochs: 20"))
    main(["--config", str(file), "--out", str(out)])
    assert len(read_results(out)) == 12
    runs = statistics.read_runs(out)
    assert len(runs.frame) == 6
    assert statistics.best_runs(runs)["seeds"].tolist() == [3, 3]
    file.write_text(trial)
    main(["--config", str(file), "--out", str(out)])
    assert len(_calls(out)) == 12
    assert not set(runs.frame.index) & set(statistics.read_runs(out).frame.index)
    plan = json.loads((out / "sweep.json").read_text())
    del plan["trials"]
    (out / "sweep.json").write_text(json.dumps(plan))
    assert len(statistics.read_runs(out).frame) == 12


def test_report_of_no_sweep(tmp_path, capsys):
    assert analyze(["--runs", str(tmp_path), "--out", str(tmp_path / "report")]) == 2
    assert "tfrec.sweep" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text('{"axes": {}, "metrics": []}')
    (tmp_path / "results").mkdir()
    with pytest.raises(AnalysisError, match="succeeded"):
        statistics.read_runs(tmp_path)


def test_sign_flip_test_equals_enumeration():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1.0, 8)
    means = [abs(np.mean(np.array(signs) * differences)) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert statistics.sign_flip_test(differences, rng) == pytest.approx(expected)
    assert statistics.sign_flip_test(np.ones(30), rng) < 0.001
    assert statistics.sign_flip_test(np.array([1.0, -1.0] * 15), rng) > 0.9
    assert statistics.sign_flip_test(np.zeros(5), rng) == 1.0


def test_holm_known_case():
    np.testing.assert_allclose(statistics.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(statistics.holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    low, high = statistics.bootstrap_interval(rng.normal(1.0, 1.0, 400), rng)
    assert 0.8 < low < 1.0 < high < 1.2
    assert np.isnan(statistics.bootstrap_interval(np.array([1.0]), rng)[0])


def _runs(frame, axes, metric="m"):
    failed = pd.DataFrame(columns=["last line"])
    return statistics.Runs(frame, axes, [metric], failed)


def test_no_difference_is_not_called_one():
    rng = np.random.default_rng(0)
    rows = [{"a": a, "seed": s, "m": rng.normal(), "seconds": 1.0} for a in "xy" for s in range(10)]
    runs = _runs(pd.DataFrame(rows), ["a"])
    tests = {"a": statistics.paired_tests(runs, "a")}
    assert tests["a"]["p"].iloc[0] > 0.05
    assert any("no two variants differ" in line for line in statistics.findings(runs, tests))


def test_incomplete_pairs_are_left_out():
    rows = [{"a": a, "seed": s, "m": s + (a == "x"), "seconds": 1.0} for a in "xy" for s in range(4)]
    runs = _runs(pd.DataFrame(rows[:-1]), ["a"])
    table = statistics.paired_tests(runs, "a")
    assert table["pairs"].tolist() == [3]
    assert table["difference"].tolist() == [1.0]


@pytest.mark.parametrize("metric", ["metrics.perplexity", "metrics.loss", "test.rating_rmse", "rating_mae"])
def test_the_smallest_error_is_the_best(metric):
    rows = [
        {"a": a, "seed": s, metric: value + s, "seconds": 1.0} for a, value in (("x", 10), ("y", 50)) for s in (0, 1)
    ]
    runs = _runs(pd.DataFrame(rows), ["a"], metric)
    tests = {"a": statistics.paired_tests(runs, "a")}
    assert statistics.best_runs(runs)["a"].tolist() == ["x", "y"]
    assert statistics.group_means(runs, "a")["best"].to_dict() == {"x": 10, "y": 50}
    (row,) = tests["a"].reset_index().to_dict("records")
    assert (row["better"], row["worse"], row["wins"], row["difference"]) == ("x", "y", 2, 40.0)
    said = statistics.findings(runs, tests)
    assert said[0] == f"Best by {metric}: a x with 10.5000 (mean of 2 seeds)."
    assert "x is best on average" in said[1]


def test_equal_means_have_no_best():
    rows = [{"a": a, "seed": s, "m": 0.5, "seconds": 1.0 + s} for a in "xy" for s in (0, 1)]
    runs = _runs(pd.DataFrame(rows), ["a"], "m")
    said = statistics.findings(runs, {"a": statistics.paired_tests(runs, "a")})
    assert said[1] == "a: all are equal on average (0.5000)."


def test_the_sign_of_a_metric_is_told_by_its_name():
    smaller = (
        "loss",
        "words_loss",
        "perplexity",
        "metrics.rating_rmse",
        "baselines.mean_rating.rating_mae.high",
        "rmse",
    )
    larger = ("recall@20", "metrics.ndcg@10.low", "accuracy", "losses", "glosses@3", "loss.accuracy")
    assert {sign_of(name) for name in smaller} == {-1}
    assert {sign_of(name) for name in larger} == {1}


def test_a_dry_run_prints_commands_for_a_shell_and_another_command_is_another_run(tmp_path, capsys):
    file = _sweep_file(tmp_path)
    assert main(["--config", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    words = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert {len(line) for line in words} == {len(words[0])}
    assert '["front", "rear"]' in itertools.chain.from_iterable(words)
    names = {trial.name for trial in read_sweep(file).trials()}
    file.write_text(file.read_text().replace("command: [python,", "command: [python, -u,"))
    assert not names & {trial.name for trial in read_sweep(file).trials()}
    file.write_bytes(b"axes: {\xff: [1]}")
    with pytest.raises(SweepError, match="is not valid YAML"):
        read_sweep(file)
