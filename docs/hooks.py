"""What a page takes from the code when the documentation is built: the table of environments."""

from typing import Any

from dibs_rl.envs import SPECS
from dibs_rl.envs.tasks import TASKS
from dibs_rl.envs.torch_tasks import TORCH_TASKS

_PLACE = "<!-- table of environments -->"


def environment_table() -> str:
    """Every environment of the registry as a Markdown table."""
    rows = ["| id | m | objectives, with their magnitudes per step | backends |", "|---|---|---|---|"]
    for spec in SPECS.values():
        steppers = (("batch", TASKS), ("warp", TASKS), ("torch", TORCH_TASKS))
        others = [name for name, tasks in steppers if spec.id in tasks]
        backends = ", ".join([*others, "gym"])
        need = f"; {spec.install}" if spec.needs else ""
        rows.append(f"| `{spec.id}` | {len(spec.objectives)} | {spec.scales_text} | {backends}{need} |")
    return "\n".join(rows)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return markdown.replace(_PLACE, environment_table())
