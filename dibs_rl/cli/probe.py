"""`dibs-rl envs --probe`: an environment's scales, measured, and what follows from them."""

import dataclasses
import json
import math
import sys
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dibs_rl.cli.flags import print_line
from dibs_rl.cli.model import make_env, worlds_for
from dibs_rl.config import RunConfig
from dibs_rl.scales import Scales, measure
from dibs_rl.untrained import OneAction, RandomActions, play, simple_actions
from dibs_rl.verdicts import Verdict, percent, rules, verdicts

_WIDEST = 250  # characters of a table; a narrower terminal breaks its lines, which is better than names cut off
_SIMPLE_EPISODES = 3  # with one action all the time, for each action


def probe_environment(config: RunConfig, episodes: int, *, as_json: bool) -> None:
    """Plays at random, measures, and prints what was found.

    Args:
        config: The environment, and the seed.
        episodes: How many.
        as_json: Print JSON instead of a table.

    Raises:
        UserError: If the environment cannot be made.
    """
    seed = config.seed
    env = make_env(config, worlds_for(config.env, episodes), seed)
    try:
        random = play(RandomActions(env, seed), env, episodes, seed)
        actions = simple_actions(env.action_space)
        simple = {name: play(OneAction(env, action), env, _SIMPLE_EPISODES, seed) for name, action in actions.items()}
    finally:
        env.close()
    scales = measure(env.objectives, random, simple)
    found = verdicts(scales)
    if as_json:
        json.dump(_plain(config.env, seed, scales, found), sys.stdout, indent=2, allow_nan=False)
        print_line("")
    else:
        _print_table(config.env, scales, found)


def _plain(env_id: str, seed: int, scales: Scales, found: list[Verdict]) -> dict[str, Any]:
    names = list(scales.objectives)
    objectives = {}
    for name, scale in scales.objectives.items():
        whole = dataclasses.asdict(scale)
        objectives[name] = {**whole, "step": scale.step._asdict(), "episode": scale.episode._asdict(), "varies": scale.varies}
    steps = [scale.step.std for scale in scales.objectives.values() if scale.step.std > 0]
    return _without_nan(
        {
            "env": env_id,
            "policy": "uniformly random actions",
            "seed": seed,
            "episodes": scales.episodes,
            "steps": scales.steps,
            "length": scales.lengths._asdict(),
            "objectives": objectives,
            "step_std_ratio": max(steps) / min(steps) if steps else None,
            "step_correlation": _by_name(names, scales.step_correlation),
            "return_correlation": _by_name(names, scales.return_correlation),
            "verdicts": [dataclasses.asdict(verdict) for verdict in found],
            "rules": [dataclasses.asdict(rule) for rule in rules(scales)],
        }
    )


def _by_name(names: list[str], matrix: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: dict(zip(names, row.tolist(), strict=True)) for name, row in zip(names, matrix, strict=True)}


def _without_nan(value: Any) -> Any:
    """The same with None for each NaN: JSON has none."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _print_table(env_id: str, scales: Scales, found: list[Verdict]) -> None:
    print_line(
        f"{env_id}: {scales.episodes} episodes of {scales.lengths.mean:,.0f} steps (mean) with uniformly random actions"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("objective", no_wrap=True)
    for column in ("a step", "not 0", "an episode", "advantage", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    least = min((scale.advantage_std for scale in scales.objectives.values() if scale.advantage_std > 0), default=1.0)
    for name, scale in scales.objectives.items():
        step, episode = scale.step, scale.episode
        table.add_row(
            name,
            f"{_short(step.mean)} ± {_short(step.std)}\n[dim]{_short(step.min)} .. {_short(step.max)}[/dim]",
            f"{100 * scale.nonzero:.3g}%",
            f"{_short(episode.mean)} ± {_short(episode.std)}\n[dim]{_short(episode.min)} .. {_short(episode.max)}[/dim]",
            f"± {_short(scale.advantage_std)}\n[dim]x {scale.advantage_std / least:.3g}[/dim]",
            percent(scale.advantage_share),
        )
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update_width(_WIDEST)).maximum)
    console.print(table)
    _print_correlations(list(scales.objectives), scales.return_correlation)
    for verdict in found:
        print_line(f"{', '.join(verdict.arms)} ({verdict.rule}): {verdict.why}.")
    if not found:
        print_line("No combiner is led astray by these scales, since no rule applies.")
    _print_rules(scales)


def _print_rules(scales: Scales) -> None:
    """Also the rules that do not apply, so that a verdict, or its absence, can be held against the numbers."""
    console = Console(highlight=False)
    console.print("The rules, and in brackets what comes nearest to each of them here:")
    for rule in rules(scales):
        text = f"{rule.rule} ({', '.join(rule.arms)}): {rule.limit} [{rule.nearest}]"
        console.print(Padding(Text(text, style="dim"), (0, 0, 0, 2)))


def _short(value: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value + 0.0:.3g}"


def _print_correlations(names: list[str], matrix: np.ndarray) -> None:
    pairs = [
        f"{names[i]} and {names[j]} {matrix[i, j]:.2f}"
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if not math.isnan(matrix[i, j])
    ]
    if pairs:
        print_line(f"Correlation of returns: {', '.join(pairs)}.")
