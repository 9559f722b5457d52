"""The examples of docs/testing.md are a program and its tests: they are written to files as they stand, and run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n# (?P<path>[\w/]+\.py)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(page: str) -> dict[str, str]:
    """The Python blocks of a page by the file that each names in its first line."""
    text = (ROOT / "docs" / page).read_text()
    found = {match["path"]: match["code"] for match in BLOCK.finditer(text)}
    assert len(found) == text.count("```python\n"), "every block names a file of its own"
    return found


@pytest.mark.timeout(120)
def test_the_examples_of_the_testing_page_pass(tmp_path: Path) -> None:
    for path, code in examples("testing.md").items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
