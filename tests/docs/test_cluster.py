"""What the pages about modes and clusters name is there: settings, options, keys, files."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from offloop import Settings
from offloop.cli import app
from offloop.transports.redis.names import Names

ROOT = Path(__file__).parents[2]
PAGES = ("cluster.md", "modes.md")


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_settings_and_files_that_a_page_names_are_there(page: str) -> None:
    for variable in re.findall(r"OFFLOOP_([A-Z_]+)", text(page)):
        assert variable.lower() in Settings.model_fields, variable
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text(page)):
        assert (ROOT / "docs" / path).exists(), path


def test_the_workers_options_are_those_of_the_page() -> None:
    worker = get_command(app).commands["worker"]  # type: ignore[attr-defined]
    options = {name for parameter in worker.params for name in parameter.opts if name.startswith("--")}
    assert set(re.findall(r"^\| `(--[a-z-]+)` ", text("cluster.md"), re.MULTILINE)) == options - {"--help"}


def test_the_keys_of_a_namespace_are_those_of_the_page() -> None:
    names = Names("offloop")
    keys = {
        names.requests("POOL"), names.workers("POOL"), names.dead("POOL"),
        names.inbox("…"), names.orders("…"), names.seen("…", 1).removesuffix(":1"),
    }  # fmt: skip
    assert set(re.findall(r"^\| `(offloop:[^`]+)`", text("cluster.md"), re.MULTILINE)) == keys


def test_access_control_covers_every_key() -> None:
    kinds = {key.split(":")[1] for key in re.findall(r"^\| `(offloop:[^`]+)`", text("cluster.md"), re.MULTILINE)}
    assert set(re.findall(r"~offloop:([a-z]+):\*", text("cluster.md"))) == kinds
