"""Statistics over the runs of a sweep: means, best, correlations, paired tests, and findings made of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tfrec.analysis.inputs import AnalysisError
from tfrec.evaluation.names import sign_of
from tfrec.sweep import is_metric, last_line, read_results

EXACT_PAIRS = 14  # up to here all 2^n sign flips are tried
FLIPS = 20_000
RESAMPLES = 5_000
NOT_METRICS = ("seed", "seconds", "rows", "queries", "clusters")
ALPHA = 0.05


@dataclass
class Runs:
    """The results of a sweep.

    Attributes:
        frame: one row a run: axes, `seed`, metrics, `seconds`.
        axes: columns that were varied.
        metrics: metric columns, the deciding one first.
        failed: name and last line of output of the runs that failed.
    """

    frame: pd.DataFrame
    axes: list[str]
    metrics: list[str]
    failed: pd.DataFrame

    @property
    def main(self) -> str:
        """The deciding metric."""
        return self.metrics[0]

    @property
    def smaller_is_better(self) -> bool:
        """Whether the deciding metric is an error or a loss."""
        return sign_of(self.main) < 0


def read_runs(folder: Path) -> Runs:
    """Read `results/*.json` of a sweep, with `sweep.json` beside.

    Results of other sweep files in the same folder are passed over: they may agree in axes and seed and differ in
    another option. A `sweep.json` without names of trials takes all.

    Raises:
        AnalysisError: the folder is no sweep's, or none of its runs succeeded.
    """
    import json

    if not (folder / "sweep.json").is_file():
        raise AnalysisError(f"{folder} has no sweep.json; give --runs the --out folder of python -m tfrec.sweep")
    plan = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    results = [result for result in read_results(folder) if result["name"] in plan.get("trials", [result["name"]])]
    good = [result for result in results if result["exit_code"] == 0]
    if not good:
        raise AnalysisError(f"none of the {len(results)} runs in {folder} succeeded; see `error` in results/*.json")
    rows = [
        {**one["axes"], "seed": one["seed"], **one["metrics"], "seconds": one["seconds"], "name": one["name"]}
        for one in good
    ]
    frame = pd.DataFrame(rows).set_index("name").sort_index()
    failed = pd.DataFrame(
        [{"run": one["name"], "last line": last_line(one)} for one in results if one["exit_code"]],
        columns=["run", "last line"],
    ).set_index("run")
    axes = [axis for axis in plan["axes"] if axis in frame]
    return Runs(frame, axes, metric_columns(frame, plan["metrics"], axes), failed)


def metric_columns(frame: pd.DataFrame, wanted: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The columns of the wanted metrics (by full name or last part), or all numeric ones that vary.

    Raises:
        AnalysisError: none is there.
    """
    found = []
    for name in wanted:
        matches = [column for column in frame if is_metric(str(column), name)]
        found += [str(column) for column in matches[:1]]
    if not found and not wanted:
        numeric = frame.drop(columns=list(axes)).select_dtypes("number")
        found = [str(c) for c in numeric if c not in NOT_METRICS and numeric[c].nunique() > 1]
    if not found:
        raise AnalysisError(f"no run has a metric of {list(wanted)}; they have {sorted(map(str, frame.columns))}")
    return found


def group_means(runs: Runs, axis: str) -> pd.DataFrame:
    """Mean, standard deviation, best and number of runs of the deciding metric, by an axis's variants, best first."""
    best = "min" if runs.smaller_is_better else "max"
    table = runs.frame.groupby(axis)[runs.main].agg(["mean", "std", best, "count"])
    return table.rename(columns={best: "best", "count": "runs"}).sort_values("mean", ascending=runs.smaller_is_better)


def best_runs(runs: Runs, most: int = 10) -> pd.DataFrame:
    """The best settings: metrics averaged over seeds, best first."""
    grouped = runs.frame.groupby(runs.axes)
    table = grouped[[*runs.metrics, "seconds"]].mean().assign(seeds=grouped.size())
    table = table.sort_values(runs.main, ascending=runs.smaller_is_better).head(most).reset_index()
    table.index = pd.RangeIndex(1, len(table) + 1, name="rank")
    return table


def correlations(runs: Runs) -> pd.DataFrame:
    """Spearman's rank correlation between metrics and the time of a run; columns that do not vary are left
    out.
    """
    columns = [name for name in [*runs.metrics, "seconds"] if runs.frame[name].nunique() > 1]
    return runs.frame[columns].corr(method="spearman")


def paired_tests(runs: Runs, axis: str, seed: int = 0) -> pd.DataFrame:
    """Compare an axis's variants pairwise on runs that agree in everything else.

    The p-value is that of the sign-flip permutation test of the mean difference (exact for few pairs),
    corrected over the axis's pairs by Holm's method; the interval is the bootstrap's.

    Args:
        runs: the results.
        axis: whose variants are compared.
        seed: of the random flips and resamples.

    Returns:
        One row a pair of variants, the better one first: `pairs`, `wins`, `difference` (how much better, 0 or more
        also where smaller is better), `low`, `high` (95 %), `p`.
    """
    others = [name for name in [*runs.axes, "seed"] if name != axis]
    wide = runs.frame.pivot_table(index=others, columns=axis, values=runs.main, aggfunc="mean")
    rng = np.random.default_rng(seed)
    rows = []
    for first, second in itertools.combinations(wide.columns, 2):
        differences = sign_of(runs.main) * (wide[first] - wide[second]).dropna().to_numpy(np.float64)
        if not len(differences):
            continue
        better, worse = (first, second) if differences.mean() >= 0 else (second, first)
        differences = differences if differences.mean() >= 0 else -differences
        low, high = bootstrap_interval(differences, rng)
        rows.append(
            {
                "better": better,
                "worse": worse,
                "pairs": len(differences),
                "wins": int((differences > 0).sum()),
                "difference": float(differences.mean()),
                "low": low,
                "high": high,
                "p": sign_flip_test(differences, rng),
            }
        )
    table = pd.DataFrame(rows, columns=["better", "worse", "pairs", "wins", "difference", "low", "high", "p"])
    table["p"] = holm(table["p"].to_numpy(np.float64))
    return table.sort_values("difference", ascending=False).set_index("better")


def sign_flip_test(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p-value of "the mean difference is 0": how often random signs give a mean as far from 0.

    Fisher's randomisation test; exact up to 14 pairs, by 20,000 random flips beyond.
    """
    count = len(differences)
    if count <= EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=count)))
    else:
        signs = rng.choice((1.0, -1.0), size=(FLIPS, count))
        signs[0] = 1.0  # the data themselves are one of the possible flips
    means = np.abs(signs @ differences) / count
    return float((means >= abs(differences.mean()) - 1e-12).mean())


def bootstrap_interval(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean; NaN for a single value."""
    if len(differences) < 2:
        return float("nan"), float("nan")
    picks = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction for several tests."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def findings(runs: Runs, tests: dict[str, pd.DataFrame]) -> list[str]:
    """What the numbers say, as sentences.

    Args:
        runs: the results.
        tests: axis -> `paired_tests`.
    """
    best = best_runs(runs, 1).iloc[0]
    setting = ", ".join(f"{axis} {best[axis]}" for axis in runs.axes)
    said = [f"Best by {runs.main}: {setting} with {best[runs.main]:.4f} (mean of {int(best['seeds'])} seeds)."]
    for axis, table in tests.items():
        means = group_means(runs, axis)
        if len(means) < 2:
            continue
        top, bottom = means.index[0], means.index[-1]
        best_mean, worst_mean = (f"{means['mean'].iloc[place]:.4f}" for place in (0, -1))
        if best_mean == worst_mean:
            said.append(f"{axis}: all are equal on average ({best_mean}).")
        else:
            said.append(f"{axis}: {top} is best on average ({best_mean}), {bottom} worst ({worst_mean}).")
        said += [_sentence(axis, str(better), row) for better, row in table.iterrows() if row["p"] <= ALPHA]
        if not (table["p"] <= ALPHA).any():
            said.append(f"{axis}: no two variants differ significantly (Holm-corrected p > {ALPHA}).")
    rho = float(runs.frame[runs.main].corr(runs.frame["seconds"], method="spearman"))
    if np.isfinite(rho):
        said.append(f"Longer runs go with {'higher' if rho > 0 else 'lower'} {runs.main} (Spearman {rho:+.2f}).")
    if len(runs.failed):
        said.append(f"{len(runs.failed)} runs failed and are left out.")
    return said


def _sentence(axis: str, better: str, row: pd.Series) -> str:
    return (
        f"{axis}: {better} beats {row['worse']} by {row['difference']:.4f} "
        f"[{row['low']:.4f}, {row['high']:.4f}] in {row['wins']} of {row['pairs']} pairs (p = {row['p']:.4f})."
    )
