"""What a shop of any size costs in hours and money, from unit costs.

    python -m benchmarks.scale
    python -m benchmarks.scale --users 1e6 --items 1e5 --machines 4

It computes, it measures nothing. A unit cost is taken from `benchmarks/figures/` where one was measured there, and is an
assumption otherwise; the table says which. Every assumption is an option.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

FIGURES = Path(__file__).parent / "figures"
FLOAT = 4
ADAM = 3  # a weight and its two moments

# option -> default, the work in benchmarks/figures/ that measures it (None: no benchmark writes it yet), what it is
UNITS = {
    "photos-per-second": (100.0, "encode, vit-ti16", "photos through a ViT-Ti, one machine"),
    "texts-per-second": (100.0, "encode, minilm", "texts through a MiniLM, one machine"),
    "examples-per-second": (20_000.0, "fit, batch 2048", "purchases learned from cached features, one machine"),
    "queries-per-second": (1_000.0, "retrieve, 10M items", "customers read, searched and written, one machine"),
}
SIZES = {
    "users": (1e8, "customers"),
    "items": (1e7, "items"),
    "purchases": (20.0, "purchases of a customer in training"),
    "epochs": (1.0, "passes over the purchases"),
    "dim": (128.0, "width of the vectors"),
    "history": (20.0, "purchases of a history"),
    "batch": (8192.0, "customers in a step, of all workers"),
    "encode-items": (256.0, "items encoded in a step, of all workers"),
    "dense-weights": (5e6, "weights that are no table"),
    "feature-bytes": (2 * 2 * 384.0, "bytes of an item in the feature store (two pooled vectors)"),
    "k": (12.0, "recommendations of a customer"),
    "machines": (10.0, "machines, each as measured"),
    "price": (0.10, "price of a machine for an hour"),
    "bandwidth": (1.25e9, "bytes a second between two machines"),
}


@dataclass(frozen=True)
class Job:
    """A job of the way from content to recommendations.

    Attributes:
        name: of the job.
        hours: of all machines together.
        wall: hours until it is done.
        note: what it was computed from.
    """

    name: str
    hours: float
    wall: float
    note: str


def measured(figures: Path) -> dict[str, float]:
    """Rates by work, of all files in a folder of figures."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(figures.glob("*.json"))]
    return {rate["work"]: rate["per_second"] for content in contents for rate in content.get("rates", [])}


def step_bytes(sizes: dict[str, float]) -> float:
    """Bytes that a worker sends in a training step: content vectors and their gradients, dense gradients round a ring
    twice, and the rows of two id tables that the batch's histories name, none of them twice."""
    vectors = 3 * sizes["encode-items"] * sizes["dim"]
    rows = 2 * min(sizes["items"], sizes["batch"] * (sizes["history"] + 1)) * sizes["dim"]
    return FLOAT * (vectors + 2 * sizes["dense-weights"] + rows)


def jobs(sizes: dict[str, float], units: dict[str, float]) -> list[Job]:
    """What each job takes; encoding and retrieval share no state, training's workers meet in every step."""
    machines = sizes["machines"]

    def apart(name: str, count: float, unit: str, note: str) -> Job:
        hours = count / units[unit] / 3600
        return Job(name, hours, hours / machines, note)

    purchases = sizes["users"] * sizes["purchases"] * sizes["epochs"]
    steps = purchases / (sizes["batch"] * sizes["history"])
    alone = purchases / units["examples-per-second"] / 3600
    sending = 0.0 if machines == 1 else steps * step_bytes(sizes) / sizes["bandwidth"] / 3600
    wall = alone / machines + sending
    share = alone / machines / wall
    return [
        apart("encode photos", sizes["items"], "photos-per-second", "`tfrec.encode --engine ray`, once"),
        apart("encode texts", sizes["items"], "texts-per-second", "`tfrec.encode --engine ray`, once"),
        Job("train", wall * machines, wall, f"{steps:,.0f} steps; {share:.0%} of the time not spent sending"),
        apart("recommend", sizes["users"], "queries-per-second", "`tfrec.retrieve --engine ray`"),
    ]


def storage(sizes: dict[str, float]) -> dict[str, float]:
    """Bytes by what is kept where."""
    table = sizes["items"] * sizes["dim"] * FLOAT
    return {
        "memory of every training worker: bank, two id tables and their moments": table * (1 + 2 * ADAM),
        "memory of every retrieval worker: item vectors, ScaNN's copy, the histories' own": 3 * table,
        "feature store": sizes["items"] * sizes["feature-bytes"],
        "purchases, resident in every training worker": sizes["users"] * sizes["purchases"] * 16,
        "recommendations": sizes["users"] * sizes["k"] * 15,
    }


def report(sizes: dict[str, float], units: dict[str, float], sources: dict[str, str]) -> str:
    """The tables, as Markdown."""
    lines = [
        f"{sizes['users']:,.0f} customers, {sizes['items']:,.0f} items, {sizes['machines']:,.0f} machines.",
        "",
        "| job | machine hours | hours | price | computed from |",
        "|---|---|---|---|---|",
    ]
    for job in jobs(sizes, units):
        price = job.hours * sizes["price"]
        lines.append(f"| {job.name} | {job.hours:,.1f} | {job.wall:,.1f} | {price:,.2f} | {job.note} |")
    lines += ["", "| kept | GB |", "|---|---|"]
    lines += [f"| {name} | {count / 1e9:,.1f} |" for name, count in storage(sizes).items()]
    lines += ["", "| unit cost | a second | source |", "|---|---|---|"]
    lines += [f"| {UNITS[name][2]} | {units[name]:,.0f} | {sources[name]} |" for name in UNITS]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    """Print the tables; they are returned as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, _, meaning) in UNITS.items():
        parser.add_argument(f"--{name}", type=float, help=f"{meaning} (default: measured, else {default:g}, assumed)")
    for name, (size, meaning) in SIZES.items():
        parser.add_argument(f"--{name}", type=float, default=size, help=f"{meaning} (default: %(default)g)")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="measured unit costs (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    found, units, sources = measured(options["figures"]), {}, {}
    for name, (default, work, _) in UNITS.items():
        given = options[name.replace("-", "_")]
        units[name] = given if given is not None else found.get(work, default)
        sources[name] = "given" if given is not None else f"measured: {work}" if work in found else "assumed"
    text = report({name: options[name.replace("-", "_")] for name in SIZES}, units, sources)
    print(text)
    return text


if __name__ == "__main__":
    main()
