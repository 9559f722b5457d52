"""The README's program, run as the README says: what a newcomer tries first has to work."""

import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.server import serving

README = Path(__file__).parents[2] / "README.md"
PASSWORD = {"password": "correct horse"}


@pytest.fixture
def program(tmp_path) -> Path:
    """A folder with the Python files that the README shows, each named by its first line."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    named = {match[1]: block for block in blocks if (match := re.match(r"# (\w+\.py)", block))}
    assert named.keys() == {"work.py", "web.py"}
    for name, code in named.items():
        (tmp_path / name).write_text(code)
    return tmp_path


def ask_at_once(url: str, callers: int) -> list[httpx.Response]:
    with httpx.Client(timeout=20) as client, ThreadPoolExecutor(callers) as pool:
        return list(pool.map(lambda _: client.post(f"{url}/hashes", json=PASSWORD), range(callers)))


def test_the_program_answers_in_every_mode(program, mode):
    with serving("web:app", "--app-dir", str(program), env=mode.env()) as server:
        answer = httpx.post(f"{server.url}/hashes", json=PASSWORD, timeout=20)
    assert answer.status_code == 200
    assert answer.json().keys() == {"salt", "hash"}


def test_more_callers_than_the_endpoint_allows_are_told_to_come_back(program):
    with serving("web:app", "--app-dir", str(program)) as server:
        answers = ask_at_once(server.url, 20)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 429}
    assert statuses[200] >= 8
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert (refused.json()["reason"], refused.json()["retry_safe"]) == ("endpoint-busy", True)


def test_more_work_than_may_wait_is_refused(program):
    with serving("web:app", "--app-dir", str(program), env={"OFFLOOP_QUEUE_LIMIT": "2"}) as server:
        answers = ask_at_once(server.url, 20)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {200, 429, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["reason"] == "queue-full"


def test_the_function_stays_a_function(program):
    code = "from work import *; print(len(hash_password(Password(password='x')).hash))"
    found = subprocess.run([sys.executable, "-c", code], cwd=program, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "128"


def test_check_finds_no_fault_in_it(program):
    offloop = Path(sys.executable).with_name("offloop")
    found = subprocess.run([offloop, "check", "work"], cwd=program, capture_output=True, text=True, check=True)
    assert "hash_password" in found.stdout
