"""What experts are: the facts that `experts.yaml` keeps of them, their place in the cache, and if they are those wanted."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dibs_rl.agents.experts import expert_facts, read_experts
from dibs_rl.cli.benchmark import NOT_COMPARED
from dibs_rl.config import OF_TASK, RunConfig
from dibs_rl.errors import check_same
from dibs_rl.provenance import versions
from dibs_rl.study import Job
from dibs_rl.validation import to_plain

_CACHE = Path("runs") / "experts"
# What a cached expert must have been trained with to be used again.
_VERSIONS = ("dibs-rl", "torch", "gymnasium", "mo-gymnasium", "mujoco", "stable-baselines3")


def facts_of(env_id: str, backend: str, config: RunConfig) -> dict[str, Any]:
    """What experts with these settings are, for `experts.yaml`."""
    found = versions()
    return {
        "env": env_id,
        "backend": backend,
        "algo": config.algo,
        "steps": config.steps,
        "seed": config.seed,
        **{name: getattr(config, name) for name in OF_TASK},
        "versions": {name: found[name] for name in _VERSIONS},
    }


def cached(facts: dict[str, Any], jobs: Sequence[Job]) -> Path:
    """Where they are kept if nothing else is said; the end of the name stands for versions and settings."""
    terms = [re.sub(r"[^\w.=+-]+", "-", facts["reward_terms"])] if facts["reward_terms"] else []
    padded = ["padded"] if facts["pad_tasks"] else []
    settings = [{key: value for key, value in to_plain(job.config).items() if key not in NOT_COMPARED} for job in jobs]
    rest = hashlib.sha256(json.dumps([facts["versions"], settings]).encode()).hexdigest()[:8]
    parts = [facts["algo"], facts["backend"], str(facts["steps"]), f"seed{facts['seed']}", *terms, *padded, rest]
    return _CACHE / facts["env"].replace(":", "-") / "-".join(parts)


def task_facts(folder: Path) -> dict[str, Any]:
    """What a folder's experts are; those that say nothing of reward terms or padding had none.

    Raises:
        UserError: If it is no folder of experts.
    """
    return {**{name: getattr(RunConfig, name) for name in OF_TASK}, **expert_facts(folder)}


def check(folder: Path, facts: dict[str, Any]) -> None:
    """Raises a UserError if the folder's experts are not those that are wanted, or broken."""
    mend = "choose another folder (--out), or move it away"
    check_same(f"{folder} holds experts with", _flat(task_facts(folder)), _flat(facts), mend)
    read_experts(folder)


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts with a line for each version."""
    of_packages = {f"version of {name}": version for name, version in facts.get("versions", {}).items()}
    return {**{key: value for key, value in facts.items() if key != "versions"}, **of_packages}
