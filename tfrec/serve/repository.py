"""The versions in service: the folders are polled, new versions loaded beside the old ones, then swapped.

A version that is torn, altered, or fails its warm-up is reported and not served; what was served before stays.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfrec.publish import versions
from tfrec.serve.errors import Code, LoadStoppedError, ServeError, shown
from tfrec.serve.model_config import ModelConfig
from tfrec.serve.servable import Servable

LOG = logging.getLogger("tfrec.serve")


@dataclass(frozen=True)
class VersionStatus:
    """Of a version: TensorFlow Serving's state (`LOADING`, `AVAILABLE`, `UNLOADING`, `END`), and what failed."""

    state: str
    error: str = ""


@dataclass(frozen=True)
class Model:
    """A model in service. Never changed: a swap puts another one in its place.

    Attributes:
        config: where its versions are, and its labels as they are served.
        servables: the loaded versions by number.
        status: of every version that was looked at.
        failed: what identifies the folders that failed by what is in them, so that they are not tried again until changed.
    """

    config: ModelConfig
    servables: dict[int, Servable]
    status: dict[int, VersionStatus]
    failed: dict[int, str]


class Repository:
    """Models by name.

    Args:
        read_configs: the models to serve; asked again at every poll.
        changed: told of every version that was loaded, unloaded or failed: model, version, outcome.
    """

    def __init__(
        self,
        read_configs: Callable[[], Sequence[ModelConfig]],
        changed: Callable[[str, int, str], object] = lambda *event: None,
    ):
        self._read_configs, self._changed = read_configs, changed
        self._stopped = threading.Event()
        self._models: dict[str, Model] = {config.name: Model(config, {}, {}, {}) for config in read_configs()}

    @property
    def names(self) -> list[str]:
        """The models' names."""
        return list(self._models)

    @property
    def ready(self) -> bool:
        """Whether there is a version in service: one stays until the next serves, and a model that is added beside others
        is not waited for."""
        models = list(self._models.values())
        return not models or any(model.servables for model in models)

    def model(self, name: str) -> Model:
        """A model by name, or NOT_FOUND."""
        try:
            return self._models[name]
        except KeyError:
            raise ServeError(Code.NOT_FOUND, f"no model {shown(name)} is served; served are {self.names}") from None

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The version that a request means: the newest one unless it is named.

        Raises:
            ServeError: NOT_FOUND, or UNAVAILABLE where nothing is loaded yet.
        """
        model = self.model(name)
        if label is not None:
            version = model.config.labels.get(label)
            if version is None:
                labels = sorted(model.config.labels)
                raise ServeError(Code.NOT_FOUND, f"model {name!r} has no label {shown(label)}; its labels are {labels}")
        if version is None:
            if not model.servables:
                raise ServeError(Code.UNAVAILABLE, f"no version of model {name!r} is loaded yet; try again later")
            version = max(model.servables)
        if version not in model.servables:
            raise ServeError(
                Code.NOT_FOUND,
                f"version {version} of model {name!r} is not served; served are {sorted(model.servables)}",
            )
        return model.servables[version]

    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """As `get`, but held until `Servable.release`, so that a swap cannot unload it meanwhile."""
        while True:
            servable = self.get(name, version, label)
            if servable.acquire():
                return servable  # else it was swapped in between: look again

    def poll(self) -> None:
        """Load what is new, then unload what is no longer wanted. Not for two threads at a time.

        Raises:
            LoadStoppedError: `stop_loading` was called.
        """
        configs = self._configs()
        for name in set(self._models) - {config.name for config in configs}:
            gone = self._models.pop(name)  # before its versions: from here on, it is not found
            for version, servable in gone.servables.items():
                self._told(name, version, VersionStatus("END"), "unloaded")
                servable.retire()
        for config in configs:
            self._models.setdefault(config.name, Model(config, {}, {}, {}))
            try:
                self._poll_model(config)
            except OSError as error:  # of a share that is gone, say: the other models are looked at
                LOG.error(
                    "a model's folder cannot be read", extra={"fields": {"model": config.name, "error": str(error)}}
                )

    def _configs(self) -> Sequence[ModelConfig]:
        try:
            return self._read_configs()
        except (ValueError, OSError) as error:
            LOG.error("the models' configuration cannot be read", extra={"fields": {"error": str(error)}})
            return [model.config for model in self._models.values()]

    def _poll_model(self, config: ModelConfig) -> None:
        wanted = config.wanted()
        if config.specific:
            self._report_absent(config)
        self._label(config)
        for version in sorted({*wanted, *config.labelled()}, reverse=True):
            if version not in self._models[config.name].servables:
                self._load(config, version)
                self._label(config)
        if wanted and not config.specific:
            self._load_older(config, wanted)
        model = self._models[config.name]
        if not set(wanted) & set(model.servables):
            return  # never without any version: the old one serves until a wanted one does
        for version in sorted(set(model.servables) - set(wanted) - set(model.config.labels.values())):
            self._unload(config.name, version)

    def _load_older(self, config: ModelConfig, wanted: list[int]) -> None:
        """Where none of the latest is in service, as when a server starts while they are damaged, the next older that
        loads."""
        if set(wanted) & set(self._models[config.name].servables):
            return
        for version in reversed(versions(config.folder)):
            if version < wanted[0] and version not in self._models[config.name].servables:
                self._load(config, version)
                self._label(config)
            if version in self._models[config.name].servables:
                return

    def _report_absent(self, config: ModelConfig) -> None:
        """Tell of versions that are asked for by their numbers and are not published."""
        model, published = self._models[config.name], versions(config.folder)
        for version in sorted(set(config.specific) - set(published) - set(model.servables)):
            status = VersionStatus("END", f"{config.folder} has no version {version}; its versions are {published}")
            if model.status.get(version) != status:
                self._report(config.name, version, status, "failed")

    def _label(self, config: ModelConfig) -> None:
        """Take over a model's configuration; a label whose new version does not serve yet stays with the one before."""
        model = self._models[config.name]
        kept = {
            label: model.config.labels[label]
            for label, version in config.labels.items()
            if version not in model.servables and model.config.labels.get(label) in model.servables
        }
        self._put(config.name, config=replace(config, labels={**config.labels, **kept}))

    def _load(self, config: ModelConfig, version: int) -> None:
        path = config.folder / str(version)
        try:
            identity = _identity(path)
        except OSError:
            return  # withdrawn since it was listed
        if self._models[config.name].failed.get(version) == identity:
            return
        before = self._models[config.name].status.get(version)
        if before is None or not before.error:  # one that failed keeps its error until it serves
            self._report(config.name, version, VersionStatus("LOADING"))
        try:
            servable = Servable(config.name, version, path, self._check_going)
        except LoadStoppedError:
            raise
        except Exception as error:  # whatever it is, the other models are looked at
            if not (_may_pass(error) or _has_changed(path, identity)):  # else it may be in order at the next look
                self._put(config.name, failed={**self._models[config.name].failed, version: identity})
            if not isinstance(error, (ValueError, OSError)) or isinstance(error.__cause__, (RuntimeError, KeyError)):
                LOG.exception("a version could not be loaded")
            status = VersionStatus("END", str(error) or type(error).__name__)
            self._report(config.name, version, status, "failed" if status != before else "")  # not at every look
            return
        self._put(config.name, servables={**self._models[config.name].servables, version: servable})
        self._report(config.name, version, VersionStatus("AVAILABLE"), "loaded")

    def _unload(self, name: str, version: int) -> None:
        servables = dict(self._models[name].servables)
        servable = servables.pop(version)
        self._put(name, servables=servables)
        self._report(name, version, VersionStatus("END"), "unloaded")
        servable.retire()

    def _report(self, name: str, version: int, status: VersionStatus, outcome: str = "") -> None:
        self._put(name, status={**self._models[name].status, version: status})
        if outcome:
            self._told(name, version, status, outcome)

    def _told(self, name: str, version: int, status: VersionStatus, outcome: str) -> None:
        fields = {"event": outcome, "model": name, "version": version, "error": status.error}
        level = logging.ERROR if status.error else logging.INFO
        LOG.log(level, f"version {outcome}", extra={"fields": fields})
        self._changed(name, version, outcome)

    def _put(self, name: str, **changes: Any) -> None:
        self._models[name] = replace(self._models[name], **changes)

    def stop_loading(self) -> None:
        """Give up the version that another thread is loading, at its next step, and load no further one."""
        self._stopped.set()

    def _check_going(self) -> None:
        if self._stopped.is_set():
            raise LoadStoppedError

    def close(self) -> None:
        """Free every version."""
        for model in self._models.values():
            for servable in model.servables.values():
                servable.retire()


def _identity(path: Path) -> str:
    """What changes when anything in a version's folder does: one that was refused is tried again once it was mended."""
    found = [(str(file.relative_to(path)), file.stat()) for file in sorted(path.rglob("*"))]
    return repr((path.stat().st_ino, [(name, stat.st_size, stat.st_ino, stat.st_ctime_ns) for name, stat in found]))


def _has_changed(path: Path, identity: str) -> bool:
    """Whether a version's folder is no longer what it was, as one that is still being copied."""
    try:
        return _identity(path) != identity
    except OSError:
        return True


def _may_pass(error: BaseException | None) -> bool:
    """Whether the file system's answer is among the causes of an error: it may give another one at the next look."""
    from tensorflow.errors import NotFoundError

    while error is not None:
        if isinstance(error, (OSError, NotFoundError)):
            return True
        error = error.__cause__
    return False
