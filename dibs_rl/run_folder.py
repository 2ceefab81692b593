"""A run's folder: what it holds, under which names, and how to go on with it."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import yaml

from dibs_rl.by_objective import by_name
from dibs_rl.config import RunConfig
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write, check_exists, load_yaml, read_json, write_json
from dibs_rl.new_folders import exists, made, made_numbered
from dibs_rl.provenance import surroundings
from dibs_rl.validation import to_plain, validated

_KEPT_CHECKPOINTS = 3
_LOCK, _ERROR = ".lock", "error.txt"
_LOCK_PATIENCE = 3.0  # seconds in which a process that is told to end lets go of its run


class RunFolder:
    """`config.yaml`, `progress.csv`, TensorBoard events, `checkpoints/`, `cost.json`, `model.zip`, `result.json` of one run.

    `result.json` is what the training ended with, which studies compare; `evaluation.json` what anybody found later.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.progress_file = path / "progress.csv"
        self.model_file = path / "model.zip"
        self.result_file = path / "result.json"
        self.evaluation_file = path / "evaluation.json"
        self.cost_file = path / "cost.json"
        self.error_file = path / _ERROR
        self.checkpoints = path / "checkpoints"
        self.replay_file = self.checkpoints / "replay_buffer.pt"
        self._lock_file = path / _LOCK
        self._lock = filelock.FileLock(self._lock_file)

    @classmethod
    def create(cls, config: RunConfig, env_id: str, facts: dict[str, Any]) -> "RunFolder":
        """Makes the folder of a new run, locks it and writes `config.yaml`: settings, versions and git commit.

        Args:
            config: The settings; `out` names the folder.
            env_id: The id that `config.env` stands for.
            facts: What else is known of the run: backend, device, objectives.

        Raises:
            UserError: If `out` is given and holds a run or anything else, or cannot be made.
        """
        usual = Path("runs") / env_id.replace(":", "-") / f"{config.algo}-{config.combiner}-seed{config.seed}"
        folder = cls(made(config.out, {_LOCK, _ERROR}) if config.out else made_numbered(usual))
        folder.lock()
        if folder.config_file.is_file():  # another process was faster
            raise exists(folder.path)
        study = {"study": by_name(config.study, "study")} if config.study else {}
        folder._write_config(config, {**study, **facts, **surroundings()})
        return folder

    def lock(self) -> None:
        """Keeps every other process from writing here, until `unlock` or the end of this one, whatever ends it.

        Raises:
            UserError: If another process writes here.
        """
        try:
            self._lock.acquire(timeout=_LOCK_PATIENCE)
        except filelock.Timeout:
            raise UserError(f"Another process is writing to the run folder {self.path}; let it end first.") from None

    def unlock(self) -> None:
        """Lets other processes write here."""
        self._lock.release()

    @property
    def in_use(self) -> bool:
        """Whether a process writes here now."""
        if not self._lock_file.is_file():
            return False
        probe = filelock.FileLock(self._lock_file)
        try:
            with probe.acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end and was evaluated."""
        return self.model_file.is_file() and self.result_file.is_file()

    def _write_config(self, config: RunConfig, facts: dict[str, Any]) -> None:
        with atomic_write(self.config_file) as file:
            file.write(yaml.safe_dump({"settings": to_plain(config), "facts": facts}, sort_keys=False).encode())

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Finds a run that was started before.

        Raises:
            UserError: If the folder is not one.
        """
        folder = cls(path)
        check_exists(path)
        if not folder.config_file.is_file():
            runs = f"; it is a study's, whose runs are {path / '*/*/*/seed*'}" if (path / "study.yaml").is_file() else ""
            raise UserError(f"{path} is not a run folder: it has no config.yaml{runs}.")
        return folder

    def config(self) -> Any:
        """The settings of the run; where it began in the physics of the warp backend, they name it."""
        settings = load_yaml(self.config_file).get("settings")
        if not isinstance(settings, dict) or "algo" not in settings:
            raise UserError(f"{self.config_file} holds no settings of a run.")
        if self.facts().get("backend") == "warp":  # whatever `auto` would mean here and now
            settings = {**settings, "backend": "warp"}
        return validated(settings["algo"], settings, str(self.config_file))

    def objectives(self) -> list[str]:
        """Names of the run's objectives, in the reward's order."""
        return list(self.facts().get("objectives", []))

    def facts(self) -> dict[str, Any]:
        """What is known of the run beside its settings: objectives, backend, versions, and its place in a study."""
        return load_yaml(self.config_file).get("facts") or {}

    @property
    def has_model(self) -> bool:
        """Whether there is a model or a checkpoint, whole or not."""
        return self.model_file.is_file() or bool(self._checkpoint_files())

    def checkpoint_file(self, steps: int) -> Path:
        """Where the checkpoint of a step goes."""
        return self.checkpoints / f"step_{steps:012d}.zip"

    def drop_old_checkpoints(self) -> None:
        """Keeps the newest three."""
        for old in self._checkpoint_files()[:-_KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)

    def newest_model(self) -> Path:
        """The finished model, or the newest whole checkpoint of a run that has not finished.

        Raises:
            UserError: If there is neither, or none is whole.
        """
        files = [self.model_file] if self.model_file.is_file() else []
        files += reversed(self._checkpoint_files())
        if not files:
            raise UserError(f"{self.path} has no model and no checkpoint yet: start it anew under another --out.")
        for file in files:
            if _is_whole(file):
                return file
        raise UserError(f"The model file {files[0]} is corrupt, and {self.path} has no whole checkpoint to fall back on.")

    def reopen(self, config: RunConfig, loaded: Path | None, steps: int) -> list[str]:
        """Makes the folder ready to go on: new settings into `config.yaml`, no finished model in the way, and no result of it.

        Args:
            config: The settings that hold from now on.
            loaded: The file the run goes on from; None if it has to begin anew.
            steps: The step it is of.

        Returns:
            What the person should know, a line each.
        """
        self.result_file.unlink(missing_ok=True)  # of a shorter training, or about to be found anew
        facts = self.facts()
        resumed = [*facts.get("resumed", []), {"step": steps, **surroundings()}]
        self._write_config(config, {**facts, "resumed": resumed})
        for part in self.path.rglob(".*.part"):  # what a killed process had begun to write
            part.unlink(missing_ok=True)
        if loaded and loaded == self.model_file:
            self.checkpoints.mkdir(exist_ok=True)
            self.model_file.replace(self.checkpoint_file(steps))
        elif loaded and self.model_file.is_file():
            aside = self.model_file.with_name("model.zip.corrupt")
            self.model_file.replace(aside)
            return [f"model.zip is corrupt and now called {aside.name}; going on from {loaded.name}."]
        return []

    def result(self) -> dict[str, Any]:
        """What `result.json` holds.

        Raises:
            UserError: If it is not a run's result.
        """
        return read_json(self.result_file, "delete it, and 'dibs-rl train --resume' evaluates the run again")

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes `result.json`, with the cost of the training so far."""
        write_json(self.result_file, {**result, "cost": self.cost()})

    def write_error(self, reason: str, details: str) -> None:
        """Writes `error.txt`: the reason why the run has failed on the first line, what was said at its end below."""
        with atomic_write(self.error_file) as file:
            file.write(f"{' '.join(reason.split())}\n\n{details}\n".encode())

    def write_cost(self, cost: Mapping[str, float]) -> None:
        """Writes `cost.json`: what the training has taken so far."""
        write_json(self.cost_file, cost)

    def cost(self) -> dict[str, float]:
        """What the training has taken so far (see `dibs_rl.cost`); empty where it has not begun.

        Raises:
            UserError: If the file holds something else.
        """
        return read_json(self.cost_file, "delete it") if self.cost_file.is_file() else {}

    def _checkpoint_files(self) -> list[Path]:
        return sorted(p for p in self.checkpoints.glob("step_*.zip") if re.fullmatch(r"step_\d+\.zip", p.name))


def _is_whole(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # a broken archive can fail in any way: as an unknown compression, a wrong size, an encrypted entry
        return False
