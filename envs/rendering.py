"""Pictures of environments on machines without a display."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from dibs_rl.envs.factories import factory_of
from dibs_rl.envs.first_look import LastPicture
from dibs_rl.envs.hush import without_display
from dibs_rl.envs.worlds import EnvFactory
from dibs_rl.errors import UserError

_MODE = "rgb_array"
# Asked in a process of its own: a library that fails takes its process with it, and PyOpenGL loads one platform only.
_DRAWS = """
from mujoco.{gl} import GLContext
context = GLContext(8, 8)
context.make_current()
from OpenGL import GL
assert GL.glGetString(GL.GL_RENDERER)
"""
_GL_PACKAGES = {"egl": "libegl1 and libgl1", "osmesa": "libosmesa6"}  # Debian's and Ubuntu's
_PATIENCE = 60  # seconds


def drawing_factory(env_id: str, reward_terms: Mapping[str, str] | None = None) -> EnvFactory:
    """A function that makes an environment of the id that draws, on a machine without a display if need be.

    Args:
        env_id: The id.
        reward_terms: As in `factory_of`.

    Raises:
        UserError: If the environment draws no pictures, or what draws them does not work here.
    """
    _get_ready_to_draw(env_id)
    factory = factory_of(env_id, reward_terms, render_mode=_MODE)
    return lambda: LastPicture(factory())


def _get_ready_to_draw(env_id: str) -> None:
    if without_display():
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")  # not "dummy", for which highway-env draws nothing
    env = factory_of(env_id)()
    try:
        modes = env.metadata.get("render_modes") or []
        if _MODE not in modes:
            there_is = f"it has the render modes {', '.join(modes)}" if modes else "it has no render modes"
            raise UserError(f"{env_id} draws no pictures: {there_is}, and {_MODE!r} is needed.")
        if hasattr(env.unwrapped, "mujoco_renderer"):
            _choose_opengl()
    finally:
        env.close()


def _choose_opengl() -> None:
    """Sets `MUJOCO_GL` on Linux, unless it is set: to EGL, or to OSMesa where that does not work.

    Raises:
        UserError: If neither works.
    """
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL"):
        return
    for gl in _GL_PACKAGES:
        if _draws(gl):
            os.environ["MUJOCO_GL"] = gl
            return
    packages = ", or ".join(f"{names} for {gl}" for gl, names in _GL_PACKAGES.items())
    raise UserError(f"MuJoCo cannot draw here: neither EGL nor OSMesa works. On Debian or Ubuntu, apt install {packages}.")


def _draws(gl: str) -> bool:
    environment: dict[str, Any] = {**os.environ, "MUJOCO_GL": gl, "PYOPENGL_PLATFORM": gl}
    command = [sys.executable, "-c", _DRAWS.format(gl=gl)]
    try:
        return subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
