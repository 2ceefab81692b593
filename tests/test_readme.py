"""Every Python snippet of the README and of docs/ runs, in a folder of its own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = {
    f"{path.relative_to(ROOT)}, snippet {number}": code
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL), 1)
}


def test_there_are_snippets():
    documents = {name.split(",")[0] for name in SNIPPETS}
    assert {"README.md", "docs/how-to/plug-in.md"} <= documents


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[name], name, "exec"), {"__name__": "snippet"})


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
