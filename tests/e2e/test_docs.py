"""What the documentation shows is run, not believed."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eyas.drafters.registry import _METHODS
from eyas.engine.cycle import Engine
from eyas.engine.stopping import StoppingConfig
from eyas.runtimes import load_runtime
from fake import answer, make_request
from tiny import write_llama

ROOT = Path(__file__).parents[2]


def _answer(engine, prompt):
    stopping = StoppingConfig(max_new_tokens=40, ignore_eos=True)
    return answer(engine, make_request(prompt, stopping=stopping, vocab_size=64))[0]


def test_the_documented_method_keeps_the_contract(tmp_path, monkeypatch):
    source = re.search(r"```python\n(.*?)```", (ROOT / "docs/add-a-method.md").read_text(), re.S)[1]
    assert len(source.splitlines()) < 40
    monkeypatch.setattr("eyas.drafters.registry._METHODS", dict(_METHODS))
    names = {"__name__": "echo"}
    exec(compile(source, "echo.py", "exec"), names)  # our own documentation
    runtime = load_runtime("torch", write_llama(tmp_path / "m"), name="tiny", dtype="float64")
    from eyas.drafters.autoregressive import Autoregressive

    drafted = _answer(Engine(runtime, names["Echo"]()), [5, 6, 7, 5])
    plain = _answer(Engine(runtime, Autoregressive()), [5, 6, 7, 5])
    assert drafted.generated == plain.generated
    assert drafted.stats().draft_tokens > 0


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


def test_the_site_builds_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").exists()


def lines_by_hand(page):
    """Lines of a page, without the part that `eyas bench report` writes."""
    text = re.sub(r"<!-- eyas bench: -->.*<!-- /eyas bench -->", "", page.read_text(), flags=re.S)
    return text.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short_enough_to_read(page):
    long = [line for line in lines_by_hand(page) if len(line) >= 120 and not line.startswith("|")]
    long = [line for line in long if max(map(len, line.split())) < 60]  # an address cannot be cut
    assert not long, long[0]


def test_internal_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith(("http", "mailto:")):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


COMMANDS = "generate chat serve tree pull models train eval bench calibrate profile doctor"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_has_help(command):
    result = subprocess.run([sys.executable, "-m", "eyas", command, "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: eyas")


GUIDES = [
    page for page in PAGES if page.name not in {"log.md", "CHANGELOG.md"}
]  # those tell of older versions


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_files_and_modules_that_a_guide_names_exist(page):
    named = re.findall(r"`([^`\s]+)`", page.read_text())
    paths = [
        ROOT / name
        for name in named
        if re.match(r"(src|tests|native|docs|benchmarks|examples)/[\w./-]+$", name)
    ]
    modules = [name for name in named if re.fullmatch(r"eyas(\.[a-z_]\w*)+", name)]
    missing = [path for path in paths if not path.exists()]
    missing += [name for name in modules if not importable(name)]
    assert not missing


def importable(name):
    """Whether a dotted name is a module, or a name in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_sections_that_the_code_cites_exist():
    headings = re.findall(r"^## (\d+)\. ", (ROOT / "docs/algorithm.md").read_text(), re.M)
    assert headings == [str(number + 1) for number in range(len(headings))]
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("native/*")]:
        for number in re.findall(r"algorithm\.md, section (\d+)", path.read_text()):
            assert number in headings, f"{path} cites section {number}"
