"""Where a result comes from: versions, machine and git commit."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("dibs-rl", "torch", "numpy", "gymnasium", "mo-gymnasium", "mujoco", "mujoco-warp", "stable-baselines3", "torchjd")
_CPUINFO = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Versions of the packages that a run depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def surroundings() -> dict[str, Any]:
    """Versions, machine and git commit, for whoever wants to repeat the run."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": _machine(),
        "git_commit": _git_commit(),
    }


def _machine() -> str:
    """How many processors of which kind."""
    about = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
    models = re.findall(r"^model name\s*:\s*(.+)$", about, re.MULTILINE)
    return f"{os.cpu_count()} x {models[0] if models else platform.processor() or platform.machine()}"


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
