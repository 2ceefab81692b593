"""Holds back what third parties say, once for every world, of MO-Gymnasium's own files, which a user can do nothing about."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

import gymnasium as gym

_COMPILER_TALK = "is deprecated and will be removed"  # MuJoCo 4 on Gymnasium's half_cheetah.xml; it would go to a log file too


@contextlib.contextmanager
def hushed(env_id: str) -> Iterator[None]:
    """For the time an environment is made: no deprecation talk, and a display for pygame where there is none."""
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    with warnings.catch_warnings(), _quiet_compiler(env_id):
        warnings.filterwarnings("ignore", ".*precision lowered by casting", UserWarning)
        warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
        yield


@contextlib.contextmanager
def _quiet_compiler(env_id: str) -> Iterator[None]:
    if "mujoco" not in str(gym.spec(env_id).entry_point):
        yield
        return
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_pass_on)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _pass_on(message: str) -> None:
    if _COMPILER_TALK not in message:
        sys.stderr.write(f"MuJoCo: {message}\n")
