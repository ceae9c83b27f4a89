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


def test_the_command_line(checkpoint: str) -> None:
    command, answer = blocks("console")[0].splitlines()[:2]
    program = str(Path(sys.executable).with_name("quintet"))
    command = command.removeprefix("$ ").replace(PUBLISHED, checkpoint).replace("quintet", program, 1)
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [answer]
    assert result.stderr == ""


def test_the_documents_it_points_to_are_there() -> None:
    for page in [README, README.with_name("CONTRIBUTING.md"), *README.parent.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} points to {link}"
