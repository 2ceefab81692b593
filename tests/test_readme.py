"""Every Python snippet of the README runs, in a folder of its own."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_snippets():
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README.md, snippet {number}", "exec"), {"__name__": "snippet"})


def test_commands_of_the_readme_exist():
    """`dibs-rl` commands and flags that the README names are there."""
    import dataclasses

    from dibs_rl.cli.main import COMMANDS
    from dibs_rl.config import ALGORITHMS

    lines = re.findall(r"^dibs-rl (.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert lines
    flags = {field.name.replace("_", "-") for cls in ALGORITHMS.values() for field in dataclasses.fields(cls)}
    for line in lines:
        assert line.split()[0] in COMMANDS
        if line.startswith("train"):
            assert set(re.findall(r"--([a-z-]+)", line)) <= flags, line
