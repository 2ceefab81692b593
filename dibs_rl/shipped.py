"""The settings that come with the package: where they lie, and which of them are an environment's."""

import re
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
BADSCALE_SUFFIX = "-badscale"  # of the names in the badly scaled suite, behind the name of what is scaled
_SHARED_SETTINGS = {"sb3-ppo": "ppo"}  # algorithms that take the shipped settings of another one


def bare_name(env_id: str) -> str:
    """An environment's id without its version."""
    return re.sub(r"-v\d+$", "", env_id)


def names_of(env_id: str) -> tuple[str, str, str]:
    """By what an environment may be known: its id, its name without the version, that of what it scales badly."""
    env_id = env_id.rpartition(":")[2]
    name = bare_name(env_id)
    return env_id, name, name.removesuffix(BADSCALE_SUFFIX)


def shipped_file(algo: str, env_id: str) -> Path | None:
    """The YAML file shipped for an environment: of its id, of its name without the version, or of what it scales badly."""
    folder = CONFIGS / _SHARED_SETTINGS.get(algo, algo)
    candidates = (folder / f"{name}.yaml" for name in names_of(env_id))
    return next((path for path in candidates if path.is_file()), None)
