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
    """No deprecation talk while an environment is made; and, from then on, a stand-in for pygame's screen and sound.

    The stand-in is for Linux without a display only; whoever sets SDL's variables is obeyed.
    """
    if without_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    with warnings.catch_warnings(), _quiet_compiler(env_id):
        warnings.filterwarnings("ignore", ".*precision lowered by casting", UserWarning)
        warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
        yield


def without_display() -> bool:
    """Whether this is Linux without a display."""
    return sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def _quiet_compiler(env_id: str) -> Iterator[None]:
    if "mujoco" not in str(gym.spec(env_id.rpartition(":")[2]).entry_point):
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
