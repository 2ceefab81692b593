"""A study: environments x conditions x arms x seeds, and the jobs that these are.

Every arm has the same settings, those that are shipped for the environment, but for what its own name says.
"""

import dataclasses
import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pydantic
import yaml

from dibs_rl import arms, conditions
from dibs_rl.config import OF_TASK, Count, RunConfig, Seed
from dibs_rl.errors import UserError, check_same, did_you_mean
from dibs_rl.files import atomic_write, load_yaml
from dibs_rl.shipped import CONFIGS, shipped_file
from dibs_rl.validation import first_error, validated

STUDIES = CONFIGS / "studies"
NAMED = ("envs", "conditions", "arms")
_OF_A_JOB = {"env", "transform", "seed", "out", "resume", "config", "study"}  # what a job is, which no setting may say


@dataclass
class Study:
    """What is to be run. In YAML, `envs`, `conditions` and `arms` are lists of names or mappings from names."""

    name: str = "benchmark"
    """What the study is called; its folder is runs/<name> unless --out says otherwise."""
    envs: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    """Environment ids, each with settings of its own: {mo-hopper: {steps: 500000}}."""
    conditions: Mapping[str, str | None] = field(default_factory=lambda: {conditions.AS_IT_IS: None})
    """What is done to the rewards: names that say it, or names of yours with a transform."""
    arms: Mapping[str, dict[str, Any] | None] = field(default_factory=lambda: {"dibs": None})
    """What is compared: names that say it, or names of yours with settings."""
    seeds: tuple[Seed, ...] = (0,)
    """Each job is run once with each."""
    steps: Count | None = None
    """Environment steps of each training; those shipped for the environment if not given."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of `dibs-rl train` that hold for every job."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a study.

    Attributes:
        env: Environment id.
        condition: Name of what is done to the rewards.
        arm: Name of what is compared.
        config: All settings.
        given: Those of them that are not shipped for the environment, by name.
        experts: Jobs whose policies are its anchors.
        start: The job whose networks it begins with.
    """

    env: str
    condition: str
    arm: str
    config: RunConfig
    given: Mapping[str, Any]
    experts: tuple["Job", ...] = ()
    start: "Job | None" = None

    @property
    def after(self) -> tuple["Job", ...]:
        """Jobs that must be done before."""
        return tuple(dict.fromkeys([*self.experts, *([self.start] if self.start else [])]))

    @property
    def path(self) -> Path:
        """Its run folder, within the study's."""
        return Path(self.env.replace(":", "-")) / self.condition / self.arm / f"seed{self.config.seed}"

    @property
    def anchors(self) -> Path:
        """Where the policies of its experts are gathered, within the study's folder."""
        return Path("anchors") / self.env.replace(":", "-") / f"seed{self.config.seed}"


def study_file(name: str) -> Path:
    """The file of a study: a path, or the bare name of a shipped one.

    Raises:
        UserError: If there is none.
    """
    for path in (Path(name), STUDIES / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in STUDIES.glob("*.yaml")))
    raise UserError(f"No study {name!r}: it is a YAML file, or one of {shipped}.")


def load_study(path: Path) -> dict[str, Any]:
    """A study's settings from its file, named after the file where it says no name.

    Raises:
        UserError: If it is not YAML or has a key that no study has.
    """
    return {"name": path.stem, **load_yaml(path)}


def validated_study(settings: Mapping[str, Any], source: str) -> Study:
    """Makes a study out of plain settings.

    Args:
        settings: Values by field name.
        source: Where they come from, for the message.

    Raises:
        UserError: If a key is unknown, a value is not as its field wants it, or there is no environment.
    """
    names = [part.name for part in dataclasses.fields(Study)]
    for key in settings:
        if key not in names:
            hint = did_you_mean(str(key), names) or f" The keys are {', '.join(names)}."
            raise UserError(f"Unknown key {key!r} in {source}.{hint}")
    named = {key: as_mapping(settings[key], key, source) for key in NAMED if key in settings}
    try:
        study = pydantic.TypeAdapter(Study).validate_python({**settings, **named})
    except pydantic.ValidationError as error:
        place, what = first_error(error)
        raise UserError(f"{'.'.join(place)} in {source}: {what}.") from None
    if not (study.envs and study.conditions and study.arms and study.seeds):
        raise UserError(f"A study has at least one environment, condition, arm and seed; look at {source}.")
    return study


def as_mapping(given: Any, key: str, source: str) -> dict[str, Any]:
    """A list of names, or of names with something behind them, as a mapping."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for item in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(item, str | Mapping):
            raise UserError(f"{key} in {source} is a list of names, or a mapping from names; found {item!r}.")
        found |= {item: None} if isinstance(item, str) else item
    return found


def resolved(study: Study, objectives: Mapping[str, Sequence[str]]) -> Study:
    """The same study with nothing left to be read from a name.

    Args:
        study: Its environments named by id.
        objectives: Names of each environment's objectives.

    Raises:
        UserError: If a condition or an arm cannot be read.
    """
    everybody = [name for env in study.envs for name in objectives[env]]
    steps = {} if study.steps is None else {"steps": study.steps}
    envs = {env: {**study.settings, **steps, **(own or {})} for env, own in study.envs.items()}
    if any("anchors" in own for own in envs.values()):
        raise UserError("Anchors belong to an arm: an expert has none.")
    what = conditions.expand(study.conditions, everybody)
    how = arms.expand(study.arms, everybody)
    for name, own in how.items():
        if changed := [task for task in OF_TASK if task in own]:
            raise UserError(f"{changed[0]} belongs to an environment, all of whose arms learn the same, and not to {name}.")
    return dataclasses.replace(study, envs=envs, conditions=what, arms=how, steps=None, settings={})


def jobs_of(study: Study, objectives: Mapping[str, Sequence[str]]) -> list[Job]:
    """The jobs of a resolved study, the first seed's first.

    A condition belongs to the environments that have the objectives it is about, an expert to those that have its own.
    `random` and the experts only fix the scale of the scores: they are run on the rewards as they are in any case. An arm with
    `anchors: auto` waits for the experts of the same environment and seed, one with `start_from: ARM` for that arm's run with
    the same environment, condition and seed.

    Args:
        study: As `resolved` gives it.
        objectives: Names of each environment's objectives.

    Raises:
        UserError: If a setting is unknown or out of bounds, or an arm starts from one that does not stand before it.
    """
    as_it_is = {conditions.AS_IT_IS: ""}
    found: list[Job] = []
    for seed, env, (arm, own) in itertools.product(study.seeds, study.envs, study.arms.items()):
        for condition, transform in (as_it_is if arms.is_reference(arm) else study.conditions).items():
            about = conditions.objectives_in(transform or "") | arms.objectives_in(arm)
            if about <= set(objectives[env]):
                change = transform or arms.expert_transform(arm, objectives[env])
                settings = {**(study.envs[env] or {}), **(own or {})}
                job = _job(env, condition, arm, settings, {"transform": change, "seed": seed})
                alike = [other for other in found if (other.env, other.config.seed) == (env, seed)]
                found.append(_behind_others(job, alike, study.arms))
    return found


def _behind_others(job: Job, alike: Sequence[Job], names: Container[str]) -> Job:
    """A job with what it waits for: other jobs of its environment and seed, which stand before it."""
    experts = tuple(other for other in alike if arms.objectives_in(other.arm)) if arms.is_anchored(job.given) else ()
    name = job.config.start_from
    if name not in names:  # nothing, or the folder of a run
        return dataclasses.replace(job, experts=experts)
    of_arm = [other for other in alike if other.arm == name and (other.condition == job.condition or arms.is_reference(name))]
    if not of_arm:
        raise UserError(f"The arm {job.arm} starts from {name}, which must stand before it among the arms of {job.env}.")
    return dataclasses.replace(job, experts=experts, start=of_arm[0])


def _job(env: str, condition: str, arm: str, settings: dict[str, Any], of_job: dict[str, Any]) -> Job:
    source = f"the study's settings for {arm} on {env}"
    taken = sorted(_OF_A_JOB & settings.keys())
    if taken:
        raise UserError(f"A study says itself what {', '.join(taken)} is; leave it out of {source}.")
    given = {**settings, **of_job}
    algo = settings.get("algo", "ppo")
    file = shipped_file(algo, env)
    shipped = load_yaml(file) if file else {}
    config = validated(algo, {**shipped, **given, "env": env}, source)
    if not config.eval_episodes:
        raise UserError(f"A study compares evaluations: eval_episodes must be at least 1 in {source}.")
    return Job(env, condition, arm, config, given)


def record(study: Study, path: Path) -> None:
    """Writes `study.yaml`: a resolved study, together with what the folder held of it before.

    Raises:
        UserError: If the folder holds a study with the same names but other settings.
    """
    file = path / "study.yaml"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the study's folder {path}: {error.strerror}.") from None
    with filelock.FileLock(path / ".study.lock"):  # another benchmark may begin at the same moment
        plain = _merged(load_yaml(file) if file.is_file() else {}, study, path)
        with atomic_write(file) as stream:
            stream.write(yaml.safe_dump(plain, sort_keys=False).encode())


def _merged(before: Mapping[str, Any], study: Study, path: Path) -> dict[str, Any]:
    """A study as YAML can hold it, together with what was there before."""
    plain: dict[str, Any] = {"name": study.name}
    for part in NAMED:
        # random and the experts are run on the rewards as they are, whether that is one of the conditions or not
        always = {conditions.AS_IT_IS: ""} if part == "conditions" else {}
        held, now = before.get(part) or {}, {**always, **getattr(study, part)}
        mend, new = "choose another --out, or other names", now.keys() - held.keys()
        check_same(f"{path} holds a study whose {part} have", held, now, mend, new)
        plain[part] = {**held, **now}
    return {**plain, "seeds": sorted({*before.get("seeds", []), *study.seeds})}
