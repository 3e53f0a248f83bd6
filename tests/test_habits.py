"""Holds the habits of the repository: nothing of one machine in it, targets that are listed, a lock that fits the metadata."""

import ast
import os
import re
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from hypothesis import settings
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.|deb\.debian\.org|crates\.io|anaconda\.org|ghcr\.io|quay\.io|docker\.io"
)
MACHINE_PATH = re.compile(r"(?<![\w.$}>/-])/(?:work|root|home|Users)/[\w.]")


def committed_texts() -> dict[str, str]:
    """Committed text files by path; empty outside a git checkout."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    texts = {}
    for name in listing.splitlines():
        try:
            texts[name] = (ROOT / name).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return texts


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    found = committed_texts()
    if not found:
        pytest.skip("not a git checkout")
    return found


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    """Packages come from wherever the user's own client is pointed at; no file names a host of them."""
    assert [(name, match[0]) for name, text in texts.items() for match in REGISTRY.finditer(text)] == []


def test_no_file_names_a_path_of_one_machine(texts: dict[str, str]) -> None:
    """A path that exists on one machine only would break, or tell on, somebody."""
    found = [(name, match[0]) for name, text in texts.items() for match in MACHINE_PATH.finditer(text)]
    assert found == []


def targets() -> set[str]:
    """What the Makefile declares to be a command rather than a file."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return set(phony.split())


def test_bare_make_lists_all_targets() -> None:
    """``make`` alone is the help page: each target with one line about it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    page = subprocess.check_output(["make"], cwd=ROOT, env=environment, text=True)
    listed = re.findall(r"^  make ([a-z-]+) +\S.*$", page, re.MULTILINE)
    assert sorted(listed) == sorted(targets())


def test_readme_names_targets_that_exist() -> None:
    """README shows the demo and the tests; every ``make`` command in it is one."""
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", " ".join(code_of((ROOT / "README.md").read_text("utf-8")))))
    assert {"demo", "test"} <= named <= targets()


def code_of(markdown: str) -> list[str]:
    """Fenced blocks and inline code."""
    return re.findall(r"```.*?```|`[^`\n]+`", markdown, re.DOTALL)


def test_changelog_has_room_for_the_next_change() -> None:
    """The newest section is the one that is not released yet, and its entries stand under the usual headings."""
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    kinds = set(re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_module_says_what_it_is_for() -> None:
    """Whoever opens a file reads first what it is about; an empty package marker has nothing to say."""
    modules = [path for folder in ("batch", "jobs", "sample_data", "tests") for path in (ROOT / folder).rglob("*.py")]
    silent = [str(path.relative_to(ROOT)) for path in modules if is_silent(path.read_text("utf-8"))]
    assert silent == []


def is_silent(source: str) -> bool:
    return bool(source.strip()) and not ast.get_docstring(ast.parse(source))


def test_lock_fits_the_metadata() -> None:
    """Every dependency in setup.cfg is pinned in the lock, at a version that it allows (else: make lock)."""
    metadata = ConfigParser()
    metadata.read(ROOT / "setup.cfg", "utf-8")
    extras = metadata["options.extras_require"]
    core = metadata["options"]["install_requires"]
    assert unpinned(core, "core.txt") == []
    assert unpinned("\n".join((core, extras["demo"], extras["test"])), "dev.txt") == []


def unpinned(wanted: str, lock: str) -> list[str]:
    pins = re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", (ROOT / "requirements" / lock).read_text("utf-8"), re.MULTILINE)
    requirements = [Requirement(line) for line in wanted.splitlines() if line]
    return [str(r) for r in requirements if not any(r.name.lower() == n and v in r.specifier for n, v in pins)]


def test_build_backend_is_locked_as_declared() -> None:
    """The lock pins the build backend that pyproject.toml asks for, and pyproject.toml holds nothing else."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert list(declared) == ["build-system"]
    assert unpinned("\n".join(declared["build-system"]["requires"]), "dev.txt") == []


def test_hooks_are_all_local() -> None:
    """The commit hooks use the tools of the lock: one version of each, and nothing fetched at commit time."""
    repositories = re.findall(r"^ *- repo: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"), re.MULTILINE)
    assert set(repositories) == {"local"}


def test_hypothesis_profile_is_loaded() -> None:
    """conftest.py imports the profiles, so that HYPOTHESIS_PROFILE=nightly really tries more."""
    assert settings.get_profile("nightly").max_examples > settings.get_profile("ci").max_examples
    assert settings.get_current_profile_name() == os.environ.get("HYPOTHESIS_PROFILE", "ci")
