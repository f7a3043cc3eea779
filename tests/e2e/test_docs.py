"""Pages are well formed, and what they name exists: links, files, modules, sections, commands, options."""

import argparse
import pkgutil
import re
import subprocess
import sys

import pytest

from eyas.cli.app import COMMANDS, build_parser, main
from eyas.drafters.heads import trained_kinds
from pages import GUIDES, PAGES, ROOT, commands, without_tables_of_bench


def name(page):
    return page.name


def test_the_site_builds_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short_enough_to_read(page):
    lines = without_tables_of_bench(page).splitlines()
    long = [line for line in lines if len(line) >= 120 and not line.startswith("|")]
    long = [line for line in long if max(map(len, line.split())) < 60]  # an address cannot be cut
    assert not long, long[0]


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("src/**/README.md"))], ids=name)
def test_internal_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith(("http", "mailto:")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_files_and_modules_that_a_guide_names_exist(page):
    named = re.findall(r"`([^`\s]+)`", page.read_text())
    folders = "src|tests|native|docs|benchmarks|examples"
    missing = [
        word for word in named if re.match(rf"({folders})/[\w./-]+$", word) and not (ROOT / word).exists()
    ]
    missing += [word for word in named if re.fullmatch(r"eyas(\.[a-z_]\w*)+", word) and not importable(word)]
    assert not missing


def importable(dotted):
    """Whether a dotted name is a module, or a name in one."""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def test_sections_that_the_code_cites_exist():
    headings = re.findall(r"^## (\d+)\. ", (ROOT / "docs/algorithm.md").read_text(), re.M)
    assert headings == [str(number + 1) for number in range(len(headings))]
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("native/**/*.*")]:
        for number in re.findall(r"algorithm\.md, section (\d+)", path.read_text()):
            assert number in headings, f"{path} cites section {number}"


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_commands_of_a_guide_are_commands(page):
    for words in commands(page):
        args, unknown = build_parser(words[0]).parse_known_args(words)
        assert not unknown, f"{page.name}: eyas {' '.join(words)}"
        assert args.run


def options_of(parser):
    """Every option string of a parser and of the commands below it."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)


def test_options_that_guides_name_exist(capsys):
    known = set(options_of(build_parser()))
    for kind in trained_kinds():  # their recipes are imported when they are asked for
        main(["train", kind, "--help-all"])
    known |= set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    for script in [
        *ROOT.glob("benchmarks/**/*.py"),
        *ROOT.glob("benchmarks/*.sh"),
        ROOT / "Makefile",
        ROOT / ".ci/run",
    ]:
        known |= set(re.findall(r"--[a-z][\w-]*", script.read_text()))
    known |= {"--no-deps", "--no-build-isolation"}  # pip's
    for page in GUIDES:
        for code in re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", page.read_text()):
            unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) - known
            assert not unknown, f"{page.name}: {unknown}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = subprocess.run([sys.executable, "-m", "eyas", command, "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: eyas")


def section(page, heading):
    """The text of a page below a heading of the second level, up to the next."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), re.S | re.M)[1]


def test_request_fields_that_the_serving_page_names_exist():
    pytest.importorskip("pydantic", reason="the extra `serve` is not installed")
    from eyas.serve import llama_fields
    from eyas.serve.schemas import IDLE, ChatRequest, CompletionRequest, EyasOptions, with_options

    known = {*IDLE, *llama_fields.IDLE, *EyasOptions.model_fields, "eyas", "best_of"}
    for model in map(with_options, (ChatRequest, CompletionRequest)):
        for field, about in model.model_fields.items():
            known |= {field, *getattr(about.validation_alias, "choices", ())}
        known |= {other for others in model.names.values() for other in others}
        known |= set(model.model_fields["eyas"].annotation.__args__[0].model_fields)
    rows = [
        line for line in section("docs/serving.md", "Request fields").splitlines() if line.startswith("| ")
    ]
    unknown = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - known
    assert not unknown


def test_metrics_that_the_serving_page_names_exist():
    source = (ROOT / "src/eyas/serve/metrics.py").read_text()
    named = re.findall(r"`(\w+?)(?:_total)?(?:\{\w+\})?`", section("docs/serving.md", "Metrics and logs"))
    metrics = [name for name in named if "_" in name and name != "finished_reason"]
    assert len(metrics) > 12
    missing = [name for name in metrics if name not in source]
    assert not missing
