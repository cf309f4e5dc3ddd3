"""Which models and versions are served: from options, or from TensorFlow Serving's own configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfrec.publish import check_name, versions
from tfrec.serve.errors import ServeConfigError


@dataclass(frozen=True)
class ModelConfig:
    """A model.

    Attributes:
        name: in requests.
        folder: of its versions.
        latest: so many of the newest versions are served, beside those that have a label; 0 for all of them.
        specific: these versions instead, if there are any.
        labels: names for versions.
    """

    name: str
    folder: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def wanted(self) -> list[int]:
        """The published versions to serve, rising."""
        found = versions(self.folder)
        if self.specific:
            return [version for version in found if version in self.specific]
        return found[-self.latest :] if self.latest else found

    def labelled(self) -> list[int]:
        """The published versions that have a label, rising: they are served beside the latest ones."""
        if self.specific or not self.labels:
            return []
        return [version for version in versions(self.folder) if version in self.labels.values()]


def models_of_folders(folders: Sequence[Path], latest: int) -> list[ModelConfig]:
    """Models named by their folders, the newest versions of each.

    Raises:
        ServeConfigError: a folder holds no model, or two have the same name.
    """
    configs = []
    for given in folders:
        folder = given.resolve()
        if (folder / "saved_model.pb").is_file():
            raise ServeConfigError(f"{given} is one version; name the model's folder ({folder.parent})")
        if not folder.is_dir() or not versions(folder):
            raise ServeConfigError(f"{given} holds no published version; export one first (python -m tfrec.export)")
        configs.append(ModelConfig(check_name(folder.name), folder, latest))
    return _distinct(configs)


def read_model_config(file: Path) -> list[ModelConfig]:
    """Read a `--model_config_file` of TensorFlow Serving; a relative `base_path` starts at the file's folder.

    Raises:
        ServeConfigError: it cannot be read, or names no model.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        parsed = text_format.Parse(file.read_text(encoding="utf-8"), ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServeConfigError(f"{file} is not a model config of TensorFlow Serving: {error}") from error
    configs = []
    for model in parsed.model_config_list.config:
        policy = model.model_version_policy
        latest = 0 if policy.HasField("all") else max(1, policy.latest.num_versions)
        specific = tuple(policy.specific.versions)
        folder = (file.parent / model.base_path).resolve()
        configs.append(ModelConfig(check_name(model.name), folder, latest, specific, dict(model.version_labels)))
    if not configs:
        raise ServeConfigError(f"{file} lists no model under model_config_list")
    return _distinct(configs)


def _distinct(configs: list[ModelConfig]) -> list[ModelConfig]:
    names = [config.name for config in configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ServeConfigError(f"two models are named {twice!r}; give each a name of its own")
    return configs
