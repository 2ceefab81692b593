"""A run's folder: what it holds, under which names, and how to go on with it."""

import json
import platform
import re
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from dibs_rl.config import RunConfig, load_yaml, to_plain, validated
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write

_PACKAGES = ("dibs-rl", "torch", "numpy", "gymnasium", "mo-gymnasium", "mujoco", "stable-baselines3", "torchjd")
_KEPT_CHECKPOINTS = 3


class RunFolder:
    """`config.yaml`, `progress.csv`, TensorBoard events, `checkpoints/`, `model.zip` and `result.json` of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.progress_file = path / "progress.csv"
        self.model_file = path / "model.zip"
        self.result_file = path / "result.json"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, config: RunConfig, env_id: str, facts: dict[str, Any]) -> "RunFolder":
        """Makes the folder of a new run and writes `config.yaml`: settings, versions and git commit.

        Args:
            config: The settings; `out` names the folder.
            env_id: The id that `config.env` stands for.
            facts: What else is known of the run: backend, device, objectives.

        Raises:
            UserError: If `out` is given and exists, or cannot be made.
        """
        name = f"{config.algo}-{config.combiner}-seed{config.seed}"
        folder = cls(_make(config.out) if config.out else _make_numbered(Path("runs") / env_id.replace(":", "-") / name))
        folder._write_config(config, {**facts, **_surroundings()})
        return folder

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
        if not folder.config_file.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml.")
        return folder

    def config(self) -> Any:
        """The settings of the run."""
        settings = load_yaml(self.config_file).get("settings")
        if not isinstance(settings, dict) or "algo" not in settings:
            raise UserError(f"{self.config_file} holds no settings of a run.")
        return validated(settings["algo"], settings, str(self.config_file))

    def objectives(self) -> list[str]:
        """Names of the run's objectives, in the reward's order."""
        return list(load_yaml(self.config_file).get("facts", {}).get("objectives", []))

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

    def reopen(self, config: RunConfig, loaded: Path, steps: int) -> list[str]:
        """Makes the folder ready to go on: new settings into `config.yaml`, and no finished model in the way.

        Args:
            config: The settings that hold from now on.
            loaded: The file the run goes on from.
            steps: The step it is of.

        Returns:
            What the person should know, a line each.
        """
        facts = load_yaml(self.config_file).get("facts", {})
        resumed = [*facts.get("resumed", []), {"step": steps, **_surroundings()}]
        self._write_config(config, {**facts, "resumed": resumed})
        for part in self.path.rglob(".*.part"):  # what a killed process had begun to write
            part.unlink(missing_ok=True)
        if loaded == self.model_file:
            self.checkpoints.mkdir(exist_ok=True)
            self.model_file.replace(self.checkpoint_file(steps))
        elif self.model_file.is_file():
            aside = self.model_file.with_name("model.zip.corrupt")
            self.model_file.replace(aside)
            return [f"model.zip is corrupt and now called {aside.name}; going on from {loaded.name}."]
        return []

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes `result.json`."""
        with atomic_write(self.result_file) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())

    def _checkpoint_files(self) -> list[Path]:
        return sorted(p for p in self.checkpoints.glob("step_*.zip") if re.fullmatch(r"step_\d+\.zip", p.name))


def _make(path: Path) -> Path:
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        hint = f"go on with --resume {path}, or " if (path / "config.yaml").is_file() else ""
        raise UserError(f"The folder {path} exists: {hint}choose another --out.") from None
    except OSError as error:
        raise UserError(f"Cannot make the run folder {path}: {error.strerror}.") from None
    return path


def _make_numbered(path: Path) -> Path:
    """Makes the folder, or, where it exists, the folder with the first free number behind its name."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return _make(free)


def _is_whole(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # a broken archive can fail in any way: as an unknown compression, a wrong size, an encrypted entry
        return False


def _surroundings() -> dict[str, Any]:
    """Versions, platform and git commit, for whoever wants to repeat the run."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    """Commit of the source this runs from; empty where it is installed from a wheel."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip() if (here.parent / "pyproject.toml").is_file() else ""
