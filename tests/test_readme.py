"""What the README and docs/ show runs: every Python snippet, in a folder of its own; commands and studies are there."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from dibs_rl.cli.benchmark import BenchmarkConfig, read_jobs
from dibs_rl.cli.main import COMMANDS
from dibs_rl.config import ALGORITHMS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
SNIPPETS = {
    f"{name}, snippet {number}": code
    for name, text in TEXTS.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL), 1)
}


def test_there_are_snippets():
    documents = {name.split(",")[0] for name in SNIPPETS}
    assert {"README.md", "docs/how-to/plug-in.md"} <= documents


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[name], name, "exec"), {"__name__": "snippet"})


def flags_of(cls):
    """Names of a command's flags, those of its groups too."""
    parts = [(field.name, field.default_factory) for field in dataclasses.fields(cls)]
    groups = [factory for _, factory in parts if dataclasses.is_dataclass(factory)]
    own = {name.replace("_", "-") for name, factory in parts if factory not in groups}
    return own.union(*map(flags_of, groups))


def test_commands_of_the_documentation_exist():
    """`dibs-rl` commands and flags that it names are there."""
    flags = {"train": set().union(*map(flags_of, ALGORITHMS.values()))}
    for command in COMMANDS.keys() - flags.keys():
        module = importlib.import_module(f"dibs_rl.cli.{command}")
        flags[command] = flags_of(getattr(module, f"{command.capitalize()}Config"))
    blocks = [block for text in TEXTS.values() for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)]
    lines = [line for block in blocks for line in re.findall(r"^\s*dibs-rl (.*?)(?:#.*)?$", block, flags=re.MULTILINE)]
    assert {line.split()[0] for line in lines} >= COMMANDS.keys() - {"experts"}
    for line in lines:
        command = line.split()[0]
        assert set(re.findall(r"(?<!\S)--(?:no-)?([a-z-]+)", line)) <= flags[command], line


def test_studies_of_the_documentation_can_be_run(tmp_path):
    file = tmp_path / "mine.yaml"
    found = [code for text in TEXTS.values() for code in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]
    assert found
    for code in found:
        file.write_text(code)
        _, jobs = read_jobs(BenchmarkConfig(str(file)))
        assert jobs
