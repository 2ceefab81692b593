"""`dibs-rl report`: a study's results as one page, from its folders alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.envs import SPECS, base_and_transform
from dibs_rl.envs.registry import return_unit
from dibs_rl.errors import UserError
from dibs_rl.reporting.page import write_report
from dibs_rl.study_folder import read_study


@dataclass
class ReportConfig:
    """Write a study's report: one HTML page that needs nothing else, and its pictures."""

    study: Annotated[Path, tyro.conf.Positional]
    """Folder of a study, as `dibs-rl benchmark` makes it; jobs may be missing."""
    out: Path | None = None
    """HTML file; report/report.html in the study's folder if not given. The pictures always go to that folder's report/."""


def run(arguments: list[str]) -> int:
    """Writes the report; returns the exit code."""
    flags = parse(ReportConfig, arguments, "report")
    folder = flags.study / "report"
    page = flags.out or folder / "report.html"
    if page.suffix != ".html":
        raise UserError(f"The report is an HTML page: --out must end in .html; found {page}.")
    study = read_study(flags.study, {spec.id: spec.objectives for spec in SPECS.values()})
    pictures = write_report(study, page, folder, lambda env, name: return_unit(base_and_transform(env)[0], name))
    without = len(study.jobs) - len(study.finished())
    print_line(f"{len(study.finished())} jobs finished" + (f", {without} without a result." if without else "."))
    print_line(f"Page: {page}   ({len(pictures)} pictures in {folder})")
    return 0
