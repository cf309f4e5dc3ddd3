"""Load a published version: check it, bring the op libraries it needs, free it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrec.graphs import skip_rewrites
from tfrec.index.indexes import load_op_libraries
from tfrec.publish import PublishError, find_version, read_manifest, verify_version

# What TensorFlow Serving fills in from the signatures' defaults, and Python's loader does not.
DEFAULTS: dict[str, Any] = {
    "days_ago": [[0.0]],
    "exclude": [[""]],
    "allow": [[""]],
    "allow_items": [[""]],
    "photo": [""],
    "text": [""],
    "attributes": [[""]],
    "among": [[-1]],
}


def default_k(max_k: int) -> int:
    """How many items a model answers with that answers at most `max_k`, where a request does not say."""
    return min(12, max_k)


class LoadedModel:
    """A version in memory. Make one with `load_model`.

    Attributes:
        path: the version's folder.
        manifest: its manifest.
        module: the loaded SavedModel.
        signatures: its signatures by name.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], module: Any):
        self.path, self.manifest, self.module = path, manifest, module
        self.signatures = module.signatures

    def __call__(self, signature: str, **inputs: Any) -> dict[str, tf.Tensor]:
        """Call a signature; inputs with a default may be left out.

        Raises:
            KeyError: there is no such signature or input, or one is missing that has no default.
            tf.errors.InvalidArgumentError: a value that the model refuses.
        """
        function = self.signatures[signature]
        specs = function.structured_input_signature[1]
        unknown = sorted(set(inputs) - set(specs))
        if unknown:
            raise KeyError(f"signature {signature!r} has no inputs {unknown}; it has {sorted(specs)}")
        defaults = DEFAULTS | {"k": [default_k(self.manifest["max_k"])]}
        given = {name: value for name, value in (defaults | inputs).items() if name in specs}
        if missing := sorted(set(specs) - set(given)):
            raise KeyError(f"signature {signature!r} needs the inputs {missing}")
        return function(**{name: tf.convert_to_tensor(given[name], specs[name].dtype) for name in specs})

    def close(self) -> None:
        """Free the index: TensorFlow keeps ScaNN's searcher until the process ends, unless told."""
        self.module.release()


def load_model(path: str | Path, *, verify: bool = True) -> LoadedModel:
    """Load a published version.

    Args:
        path: a version's folder, or a model's, whose newest version is loaded.
        verify: compare all files with the manifest first.

    Raises:
        PublishError: there is no version, or it is torn or altered.
        RetrievalIndexError: it needs ScaNN's ops, and they are not installed.
    """
    version = find_version(Path(path))
    manifest = verify_version(version) if verify else read_manifest(version)
    skip_rewrites()
    load_op_libraries(manifest)
    try:
        return LoadedModel(version, manifest, tf.saved_model.load(str(version)))
    except (OSError, tf.errors.OpError) as error:
        raise PublishError(f"{version} cannot be loaded ({str(error).splitlines()[0]}); export again") from error
