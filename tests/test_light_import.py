"""What importing loads: the package by itself next to nothing, and never a module under a bare name.

Each import runs in a process of its own, from the repository root, where the folders `envs`, `agents` and `configs` lie in
the way of the import system, and from an empty folder.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "DiBS, DiBSWeighting, combined_backward, dibs_weights, objective_jacobian, write_combined_gradient, write_gradient, "
    "make_combiner"
)
HEAVY = {"gymnasium", "stable_baselines3", "mujoco", "torchjd", "mo_gymnasium"}
from_folders = pytest.mark.parametrize("at_root", [True, False], ids=["repository root", "elsewhere"])


def modules_after(code: str, folder: Path) -> set[str]:
    """Names in `sys.modules` after the code has run in the folder, which is first on the import path."""
    report = "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@from_folders
def test_the_package_alone_loads_nothing_heavy(at_root: bool, tmp_path: Path) -> None:
    loaded = modules_after("import dibs_rl; dibs_rl.__version__; dir(dibs_rl)", ROOT if at_root else tmp_path)
    assert "dibs_rl" in loaded
    assert not loaded & (HEAVY | {"torch"})


@from_folders
def test_the_public_names_load_no_environments(at_root: bool, tmp_path: Path) -> None:
    loaded = modules_after(f"from dibs_rl import {PUBLIC}", ROOT if at_root else tmp_path)
    assert {"torch", "dibs_rl.bargaining", "dibs_rl.combiners", "dibs_rl.games", "dibs_rl.gradients"} <= loaded
    assert not loaded & (HEAVY - {"torchjd"})


@from_folders
def test_learners_and_environments_have_no_bare_names(at_root: bool, tmp_path: Path) -> None:
    """A user's own package called `envs` or `agents` must not meet ours."""
    loaded = modules_after("import dibs_rl.agents, dibs_rl.envs", ROOT if at_root else tmp_path)
    assert {"dibs_rl.agents", "dibs_rl.envs"} <= loaded
    assert not loaded & {"envs", "agents", "configs"}


def test_all_public_names_are_there() -> None:
    import dibs_rl

    assert set(PUBLIC.split(", ")) <= set(dibs_rl.__all__) == set(dir(dibs_rl))
    assert all(hasattr(dibs_rl, name) for name in dibs_rl.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    import dibs_rl

    with pytest.raises(AttributeError, match="no attribute 'dibs'"):
        dibs_rl.dibs  # noqa: B018
