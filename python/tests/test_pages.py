"""The Python programs of both README.md and of the book print what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run

ROOT = Path(__file__).parents[2]


def programs() -> list[tuple[str, str, str]]:
    """Each page's programs, with the block of text that follows, if one does before the next program."""
    found = []
    for page in (ROOT / "README.md", ROOT / "python" / "README.md", ROOT / "docs" / "src" / "python.md"):
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for at, (language, body) in enumerate(blocks):
            if language == "python" and "charm.start(" in body:
                following = blocks[at + 1] if at + 1 < len(blocks) else ("", "")
                found.append((page.stem, body, following[1] if following[0] == "text" else ""))
    return found


@pytest.mark.parametrize(("page", "program", "output"), programs())
def test_a_program_of_a_page_runs_and_prints_what_the_page_says(run: Run, page: str, program: str, output: str) -> None:
    ended = run(program, 4)
    assert ended.code == 0, ended.err
    if output:
        assert ended.lines() == sorted(output.splitlines())
