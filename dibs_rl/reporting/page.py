"""The page of a report: sections of tables and pictures, in one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from dibs_rl import __version__
from dibs_rl.files import atomic_write
from dibs_rl.reporting.pictures import Unit
from dibs_rl.reporting.sections import Section, sections
from dibs_rl.study_folder import StudyRecord

_TEMPLATE = Path(__file__).with_name("page.html")


def write_report(study: StudyRecord, page: Path, folder: Path, unit: Unit) -> list[Path]:
    """Writes a study's report.

    Args:
        study: What was run.
        page: The HTML file.
        folder: Where the pictures go too, as PNG files.
        unit: What the return of an environment's objective adds up, by id and name.

    Returns:
        The pictures' files.
    """
    parts = sections(study, unit)
    pictures = [picture for part in parts for picture in part.pictures()]
    files = [folder / f"{picture.name.replace(':', '-').replace('/', '-')}.png" for picture in pictures]
    for file, picture in zip(files, pictures, strict=True):
        with atomic_write(file) as target:
            target.write(picture.png)
    with atomic_write(page) as target:
        target.write(_render(study, parts).encode())
    return files


def _render(study: StudyRecord, parts: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["data_url"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    compared = [job for job in study.jobs if not job.is_reference]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=study.settings.get("name", study.path.name),
        parts=parts,
        finished=len(study.finished()),
        jobs=len(study.jobs),
        envs=study.named("envs", (job.env for job in compared)),
        conditions=study.named("conditions", (job.condition.name for job in compared)),
        arms=study.named("arms", (job.arm for job in compared)),
        seeds=sorted({job.seed for job in compared}),
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
        version=__version__,
    )
