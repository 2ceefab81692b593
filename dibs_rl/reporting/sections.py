"""What a report says, section by section, from a study's records."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dibs_rl.reporting import pictures, tables
from dibs_rl.reporting.origin import origin
from dibs_rl.reporting.outcomes import Outcomes, outcomes
from dibs_rl.reporting.palette import in_order
from dibs_rl.reporting.pictures import Curves, Picture, Unit, arm_curves
from dibs_rl.reporting.tables import Chosen, Table
from dibs_rl.study_folder import Condition, StudyRecord

_MAIN = "dibs"
_INTERVALS = (
    "IQM over seeds [95% percentile bootstrap interval, stratified over environments]. With few seeds such intervals are too "
    "narrow: of normal values they hold the truth about 75 times of 100 with 3 seeds, 90 with 5, 94 with 10. How the random "
    "policy and the experts vary is not in them."
)
_RESCALED = "Rescaled: the mean over those conditions, of the seeds that finished all of them."
_GAP = (
    "The largest |result under the transform - result with the rewards as given| of any objective, same seed; mean over "
    "conditions and seeds [95% bootstrap interval]. Beside it, how far another seed moves the same numbers with the rewards "
    "as given: a gap below that is within seed noise. Multiplying by a power of two commutes with rounding, so there a method "
    "that sees no units has a gap of 0 exactly."
)
_COST = (
    "Of one training, with the rewards as given: mean over seeds [95% bootstrap interval], and the ratio of the means. Jobs "
    "that ran at the same time shared the machine: compare within this study only."
)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass
class Section:
    """A part of the page, or of a section, folded away there."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: list[Any] = field(default_factory=list)

    def add(self, *blocks: "Table | Picture | Text | Section | None") -> None:
        """Adds what there is to show."""
        self.blocks += [
            block for block in blocks if block is not None and not (isinstance(block, Section) and not block.blocks)
        ]

    def pictures(self) -> list[Picture]:
        """Its pictures, those that are folded away too."""
        found = []
        for block in self.blocks:
            found += block.pictures() if isinstance(block, Section) else [block] if isinstance(block, Picture) else []
        return found


def sections(study: StudyRecord, unit: Unit) -> list[Section]:
    """The whole report.

    Args:
        study: What was run.
        unit: What the return of an environment's objective adds up, by id and name.
    """
    found = outcomes(study)
    logged = {(o.env, condition.name): _logged(study, o, condition) for o in found for condition in o.conditions}
    parts = [
        _summary(found),
        _scale(found),
        _scores(found),
        _gaps(found),
        _learning(found, logged, unit),
        _conflict(found, logged),
        _cost(study, found),
        _jobs(study),
        _origin(study),
    ]
    return [part for part in parts if part.blocks]


def _summary(found: Sequence[Outcomes]) -> Section:
    section = Section("At a glance")
    section.add(*map(Text, _notes(found)))
    scored = _scored(found)
    groups: dict[str, Chosen] = {"rewards as given": _plain}
    note = _INTERVALS
    if any(outcome.scaled for outcome in scored):
        groups["rewards rescaled"] = _scaled
        note = f"{_INTERVALS} {_RESCALED}"
    if scored:
        title = "Scores over all environments" if len(scored) > 1 else f"Scores, {scored[0].env}"
        section.add(tables.measure_table(title, scored, groups, note))
    section.add(tables.beaten(scored, _main(found)))
    return section


def _notes(found: Sequence[Outcomes]) -> Iterable[str]:
    """What has to be said of the scores before they are read."""
    if any(outcome.scorable for outcome in found):
        yield "Score of an objective: (return - random policy's) / (expert's - random policy's), on untransformed returns."
    for outcome in found:
        left_out = [name for name in outcome.objectives if name not in outcome.scorable]
        if outcome.random is None or outcome.expert is None:
            lacking = "random policy" if outcome.random is None else "expert of each objective"
            yield f"{outcome.env}: no finished run of the {lacking}; raw returns are compared instead of scores."
        elif not outcome.scorable:
            yield f"{outcome.env}: no expert does better than the random policy; raw returns are compared instead of scores."
        elif left_out:
            yield f"{outcome.env}: {', '.join(left_out)} has no score, since its expert does no better than the random policy."


def _scale(found: Sequence[Outcomes]) -> Section:
    section = Section("Score against scale")
    main = _main(found)
    for outcome in found:
        first, others = (outcome.measures[:1], outcome.measures[1:2]) if outcome.scorable else (outcome.measures, ())
        section.add(*(pictures.scale_picture(outcome, measure, main) for measure in first))
        rest = Section(f"{outcome.env}: {', '.join([*others, 'other transforms'])}")
        rest.add(*(pictures.scale_picture(outcome, measure, main) for measure in others))
        rest.add(*(pictures.condition_picture(outcome, measure, main) for measure in (*first, *others)))
        section.add(rest)
    return section


def _scores(found: Sequence[Outcomes]) -> Section:
    section = Section("Scores and returns by environment")
    scored = _scored(found)
    at_a_glance = _at_a_glance(scored)
    for outcome in found:
        rest = Section(f"{outcome.env}: other conditions ({len(outcome.conditions) - 1})")
        for condition in outcome.conditions:
            part = section if condition.name == outcome.shown else rest
            if outcome.scorable and not (outcome in scored and condition in at_a_glance):
                title = f"{outcome.env}, {condition.name}: scores"
                part.add(tables.measure_table(title, [outcome], {"": _only(condition)}))
            part.add(tables.return_table(outcome, condition.name))
        section.add(rest)
    return section


def _gaps(found: Sequence[Outcomes]) -> Section:
    section = Section("Invariance gap")
    groups = {name: chosen for name, chosen in _GAPS.items() if any(chosen(outcome) for outcome in found)}
    if not groups:
        return section
    section.add(Text(_GAP))
    scored = [outcome for outcome in found if outcome.scorable]
    if len(scored) > 1:
        section.add(*tables.gap_tables("All environments", scored, groups))
    for outcome in found:
        section.add(*tables.gap_tables(outcome.env, [outcome], groups))
        if any(len(chosen(outcome)) > 1 for chosen in groups.values()):  # else the table above is by condition already
            single: dict[str, Chosen] = {c.name: _only(c) for c in (*outcome.scaled, *outcome.bent)}
            rest = Section(f"{outcome.env}: by condition")
            rest.add(*tables.gap_tables(f"{outcome.env}, by condition", [outcome], single))
            section.add(rest)
    return section


def _learning(found: Sequence[Outcomes], logged: Mapping[tuple[str, str], Curves], unit: Unit) -> Section:
    section = Section("Learning curves")
    for outcome in found:
        rest = Section(f"{outcome.env}: other conditions ({len(outcome.conditions) - 1})")
        for condition in outcome.conditions:
            part = section if condition.name == outcome.shown else rest
            curves = logged[outcome.env, condition.name]
            part.add(pictures.learning_picture(outcome, condition, curves, _main(found), unit))
        section.add(rest)
    return section


def _conflict(found: Sequence[Outcomes], logged: Mapping[tuple[str, str], Curves]) -> Section:
    section = Section("Conflict between objectives")
    for outcome in found:
        curves = logged[outcome.env, outcome.shown]
        section.add(pictures.conflict_picture(outcome, curves, _main(found)), pictures.share_picture(outcome, curves))
    return section


def _cost(study: StudyRecord, found: Sequence[Outcomes]) -> Section:
    section = Section("Cost")
    for outcome in found:
        jobs = [job for job in study.finished() if job.env == outcome.env and job.condition.name == outcome.shown]
        if any(job.result.get("cost") for job in jobs):
            section.add(tables.cost_table(outcome.env, jobs, outcome.arms))
    if section.blocks:
        section.blocks.insert(0, Text(_COST))
    return section


def _jobs(study: StudyRecord) -> Section:
    section = Section("Jobs without a result")
    without = [job for job in study.jobs if job.state != "finished"]
    if without:
        counts = Counter(job.state for job in without)
        said = ", ".join(f"{count} {state}" for state, count in counts.items())
        section.add(tables.job_table(without, f"{len(without)} of {len(study.jobs)} jobs: {said}"))
    else:
        section.add(Text(f"None: all {len(study.jobs)} jobs finished."))
    return section


def _origin(study: StudyRecord) -> Section:
    section = Section("How this was made")
    section.add(tables.fact_table("The study", origin(study)))
    return section


def _logged(study: StudyRecord, outcome: Outcomes, condition: Condition) -> Curves:
    jobs = [job for job in study.finished() if job.env == outcome.env and job.condition.name == condition.name]
    diagnosed = condition.name == outcome.shown
    return arm_curves([job for job in jobs if not job.is_reference], pictures.columns(outcome, diagnosed=diagnosed))


def _main(found: Sequence[Outcomes]) -> str:
    """The arm that the others are held against: ours."""
    arms = in_order(arm for outcome in found for arm in outcome.arms)
    return next((arm for arm in arms if arm.startswith(_MAIN)), arms[0])


def _scored(found: Sequence[Outcomes]) -> list[Outcomes]:
    return [outcome for outcome in found if outcome.scorable and outcome.plain]


def _at_a_glance(scored: Sequence[Outcomes]) -> list[Condition]:
    """The conditions whose scores the summary shows as they are: of one environment alone, not averaged with others."""
    groups = [chosen(scored[0]) for chosen in (_plain, _scaled)] if len(scored) == 1 else []
    return [conditions[0] for conditions in groups if len(conditions) == 1]


def _plain(outcome: Outcomes) -> Sequence[Condition]:
    return [c for c in outcome.conditions if c.name == outcome.plain]


def _scaled(outcome: Outcomes) -> Sequence[Condition]:
    return outcome.scaled


def _only(condition: Condition) -> Chosen:
    return lambda outcome: [c for c in outcome.conditions if c == condition]


_GAPS: dict[str, Chosen] = {
    "factors: powers of two": lambda outcome: [c for c in outcome.scaled if c.is_power_of_two],
    "other factors": lambda outcome: [c for c in outcome.scaled if not c.is_power_of_two],
    "other transforms (outside the theorem)": lambda outcome: outcome.bent,
}
