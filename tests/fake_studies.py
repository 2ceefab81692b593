"""Folders of studies and runs as `dibs-rl` leaves them, with results that are given instead of learnt."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

VERSIONS = {"dibs-rl": "0.1.0", "torch": "2.13.0"}


def write_run(folder: Path, env, objectives, *, seed=0, settings=None, study=None, curves=None, steps=None):
    """A run that has trained: `config.yaml` and `progress.csv`.

    `curves` has columns of `progress.csv`, each as long as `steps`; a NaN is left blank.
    """
    folder.mkdir(parents=True)
    facts = {
        "backend": "gym",
        "device": "cpu",
        "objectives": list(objectives),
        "versions": VERSIONS,
        "platform": "Linux-x86_64",
    }
    facts |= {"python": "3.11.7", "git_commit": "abc123"} | ({"study": study} if study else {})
    plain = {"env": env, "algo": "ppo", "combiner": "dibs", "seed": seed, "steps": 1000, **(settings or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump({"settings": plain, "facts": facts}))
    if curves is None:
        return
    with open(folder / "progress.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time/total_timesteps", *curves])
        for row in zip(steps, *curves.values(), strict=True):
            writer.writerow(["" if np.isnan(number) else number for number in row])


def write_result(folder: Path, returns, *, seed=0, deterministic=True, cost=None, steps=1000):
    """The run's evaluation."""
    numbers = {name: {"mean": value, "std": 0.0, "min": value, "max": value} for name, value in returns.items()}
    result = {"steps": steps, "seed": seed, "deterministic": deterministic, "episodes": 20, "returns": numbers}
    (folder / "result.json").write_text(json.dumps({**result, "cost": cost or {}}))


def write_study(path: Path, *, envs, conditions, arms, seeds, result_of, curves_of=None, cost_of=None, without=()):
    """A whole study.

    Args:
        path: Its folder.
        envs: Names of the objectives, by environment id.
        conditions: Transforms, by name.
        arms: Names; the references are run on the rewards as they are.
        seeds: Numbers.
        result_of: Returns by objective, from (env, condition, arm, seed).
        curves_of: Steps and columns of `progress.csv`, from the same; none if not given.
        cost_of: The cost, from the same.
        without: (condition, arm, seed) of jobs that are never run.
    """
    path.mkdir(parents=True, exist_ok=True)
    settings = {"name": path.name, "envs": dict.fromkeys(envs), "conditions": conditions, "arms": dict.fromkeys(arms)}
    (path / "study.yaml").write_text(yaml.safe_dump({**settings, "seeds": list(seeds)}, sort_keys=False))
    for env, objectives in envs.items():
        for condition, transform in conditions.items():
            for arm in arms:
                if not _belongs(arm, condition, transform, objectives):
                    continue
                for seed in seeds:
                    if (condition, arm, seed) in without:
                        continue
                    job = (env, condition, arm, seed)
                    folder = path / env / condition / arm / f"seed{seed}"
                    steps, curves = curves_of(*job) if curves_of else (None, None)
                    given = {"transform": transform} if transform else {}
                    study = {"condition": condition, "arm": arm}
                    write_run(folder, env, objectives, seed=seed, settings=given, study=study, steps=steps, curves=curves)
                    cost = cost_of(*job) if cost_of else None
                    write_result(folder, result_of(*job), seed=seed, deterministic=arm != "random", cost=cost)


def _belongs(arm, condition, transform, objectives):
    about = {part.partition("=")[0] for part in transform.split(",") if part}
    if arm == "random" or arm.startswith("expert-"):
        return condition == "scale-1" and (arm == "random" or arm.removeprefix("expert-") in objectives)
    return about <= set(objectives)
