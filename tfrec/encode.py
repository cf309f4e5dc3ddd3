"""Run frozen encoders once over a catalogue and store their outputs.

    python -m tfrec.encode --weights hf://sentence-transformers/all-MiniLM-L6-v2 --length 128 \\
        --data PREPARED --out FEATURES
    python -m tfrec.train --recipe hm --data PREPARED --features FEATURES --out RUN

Run it again after the catalogue has changed: only new or changed texts and photos are encoded. A stopped run continues
with the same command. With --engine ray (pip install '.[ray]'), worker processes encode, on the cluster of RAY_ADDRESS
or on this machine; the resulting store is the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial

from pipelines.arguments import whole_number
from pipelines.command import run_command
from pipelines.remote import local_path, location
from tfrec.errors import EncodeError

log = logging.getLogger("tfrec")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong options or data."""
    options = _parser().parse_args(arguments)
    return run_command(
        lambda: run(options), after_full_disk="give the same command again, which goes on where it stopped"
    )


def run(options: argparse.Namespace) -> int:
    """Load the encoders, then encode what the store lacks."""
    import tensorflow as tf

    from pipelines.prepared import open_prepared
    from tfrec.cores import calls_at_a_time, one_thread_an_op
    from tfrec.features.writer import FeatureWriter
    from tfrec.training.environment import compute_precision

    one_thread_an_op()
    prepared, make = open_prepared(options.data), None
    if options.engine == "ray":
        from tfrec.distributed.ray_encoding import import_ray, parts_on_ray

        import_ray()  # or it is told now
        make = partial(parts_on_ray, workers=options.workers, data=options.data)
    tf.keras.mixed_precision.set_global_policy(compute_precision(options.precision))
    for side in load_sides(options):
        tokens = getattr(options, f"{side.kind}_store") == "tokens"
        log.info("%s encoder of %s: %s", side.kind, side.source, "tokens and vectors" if tokens else "vectors")
        shape = {"tokens": tokens, "pool": options.pool, "batch": options.batch, "part": options.part}
        writer = FeatureWriter(side, prepared, options.out, **shape, calls=calls_at_a_time(), same_precision=True)
        store = writer.write(make)
        log.info("%s: %d distinct contents of %d items", store.folder, len(store.keys), len(prepared.items))
    return 0


def photo_size(given: list[int] | None) -> tuple[int, int] | None:
    """Height and width of the photos from `--size`: one number for both, or two.

    Raises:
        EncodeError: there are more.
    """
    if not given:
        return None
    if len(given) > 2:
        raise EncodeError(f"--size {' '.join(map(str, given))}: give the side of the photos, or their height and width")
    return given[0], given[-1]


def load_sides(options: argparse.Namespace) -> list:
    """The encoders that `--weights` name, one a side.

    Raises:
        EncodeError: two of them are of one side.
    """
    from tfrec.encoders.sides import load_image_side, load_text_side, sides_of, text_length

    found: dict = {}
    for source in options.weights:
        for kind in sides_of(source):
            if options.side not in ("both", kind):
                continue
            if kind in found:
                raise EncodeError(f"--weights {source}: there is a {kind} encoder already ({found[kind].source})")
            if kind == "text":
                found[kind] = load_text_side(source, length=text_length(source, options.length))
            else:
                found[kind] = load_image_side(source, size=photo_size(options.size))
    if not found:
        raise EncodeError(f"--weights {' '.join(options.weights)}: no encoder of side {options.side}")
    return list(found.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="published encoders, at most one of texts and one of photos: a folder, hf://ORG/NAME, a KerasNLP preset, "
        "keras://resnet50, or a folder of a pretrain run",
    )
    add("--data", type=location, required=True, metavar="PREPARED", help="prepared dataset")
    add("--out", type=local_path, required=True, metavar="FEATURES", help="the store: made, or brought up to date")
    add("--side", choices=("both", "text", "image"), default="both", help="of weights with both (CLIP): which to use")
    add("--length", type=whole_number(2), help="ids per text (default: 64, or as many as the encoder reads)")
    add(
        "--size",
        type=whole_number(1),
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, of photos (default: as published)",
    )
    for side, default in (("text", "tokens"), ("image", "tokens")):
        add(
            f"--{side}-store",
            choices=("tokens", "pooled"),
            default=default,
            help="keep the tokens beside one vector each, or the vector alone (default: %(default)s)",
        )
    add(
        "--pool",
        type=whole_number(1),
        default=1,
        metavar="SIDE",
        help="average patch tokens over squares of so many (default: 1)",
    )
    add("--batch", type=whole_number(1), help="texts or photos encoded at a time (default: 64 texts, 32 photos)")
    add(
        "--precision",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
        default="auto",
        help="compute type (default: %(default)s)",
    )
    add("--engine", choices=("local", "ray"), default="local", help="who encodes (default: %(default)s)")
    add("--workers", type=whole_number(1), default=2, help="processes of --engine ray (default: %(default)s)")
    add(
        "--part",
        type=whole_number(1),
        default=2048,
        help="texts or photos that one of them encodes at a time (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
