"""What the README shows is true: its example and its command line give what stands beside them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PUBLISHED = "google/flan-t5-small"
"""The name in the README; the tests put a local checkpoint of the same shape in its place."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def checkpoint(shared: Path) -> str:
    return str(shared / "models" / "flan-t5-small-title")


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_examples(number: int, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every printed line is what the comment behind it says."""
    code = blocks("python")[number]
    promised = [line.rsplit("  # ", 1)[1] for line in code.splitlines() if line.startswith("print(")]
    exec(compile(code.replace(PUBLISHED, checkpoint), "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised


def commands() -> list[tuple[str, list[str]]]:
    """The command lines that are shown with what they print, and those lines."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks("console")).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found:
            found[-1][1].append(line)
    return [(command, printed) for command, printed in found if "quintet" in command]


@pytest.mark.parametrize(("command", "printed"), commands(), ids=[command[:40] for command, _ in commands()])
def test_the_command_line(command: str, printed: list[str], checkpoint: str, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("quintet"))
    command = re.sub(r"\bquintet ", f"{program} ", command.replace(PUBLISHED, checkpoint), count=1)
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.splitlines() == printed
    assert result.stderr == ""


def test_the_documents_it_points_to_are_there() -> None:
    for page in [README, README.with_name("CONTRIBUTING.md"), *README.parent.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} points to {link}"
