"""Holds the shape of the code: who may import whom, what stays out of `--help`, how long a function may get."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up; a module imports its own layer and those below. The longest prefix counts. A module at the top of the package
# that is not named here belongs to the ground: it may use nothing but the ground.
LAYERS = (
    ("batch.errors", "batch.job", "batch.clock", "batch.monitor.__init__"),
    ("batch.storage",),
    ("batch.formats", "batch.models"),
    (
        "batch.routing",
        "batch.monitor.profile",
        "batch.monitor.profiler",
        "batch.monitor.exact",
        "batch.monitor.summary",
        "batch.monitor.drift",
        "batch.monitor.intervals",
    ),
    ("batch.execution",),
    ("batch.triggers", "batch.report", "batch.monitor"),
    ("batch.serve", "batch.demo", "batch.doctor"),
    ("batch.cli", "batch.reference", "batch.__main__"),
)
# Package or module of ours that alone may import these.
OWNERS = {
    ("boto3", "botocore", "s3transfer"): ("batch.storage.s3",),
    ("click",): ("batch.cli",),
    ("sklearn", "skops"): ("batch.models", "batch.monitor.evaluate"),
}
NOT_FOR_HELP = ("boto3", "botocore", "jinja2", "numpy", "pandas", "pyarrow", "pydantic", "scipy", "skops", "sklearn")
FUNCTION_LINES = 60
MODULE_LINES = 350


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package by dotted name; a package's own file is ``batch.storage.__init__``."""
    return {module_name(path): ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "batch").rglob("*.py"))}


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it; ``from a import b`` gives ``a.b`` where that is a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in trees() or f"{name}.__init__" in trees() else str(node.module)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer(name: str) -> int:
    found = [(len(prefix), number) for number, row in enumerate(LAYERS) for prefix in row if within(name, prefix)]
    return max(found, default=(0, 0))[1]


def upward_imports() -> list[str]:
    """Imports that go up; the package's own ``__init__`` is left out: it only names where the public surface lives."""
    return [
        f"{name} (layer {layer(name)}) imports {used} (layer {layer(used)})"
        for name, tree in trees().items()
        for used in imports(tree)
        if name != "batch.__init__" and within(used, "batch") and layer(used) > layer(name)
    ]


def test_imports_go_one_way() -> None:
    """errors, job -> storage -> formats, models -> routing, profile -> execution -> triggers, report, monitor -> serve, cli."""
    assert upward_imports() == []


@pytest.mark.parametrize("libraries", OWNERS, ids=lambda names: names[0])
def test_a_foreign_library_has_one_owner(libraries: tuple[str, ...]) -> None:
    """Only storage/s3.py knows boto3, only the command line knows click, only the models know scikit-learn and skops."""
    trespassers = [
        f"{name} imports {used}"
        for name, tree in trees().items()
        for used in imports(tree)
        if used.partition(".")[0] in libraries and not any(within(name, owner) for owner in OWNERS[libraries])
    ]
    assert trespassers == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_pays_for_nothing_heavy(arguments: list[str]) -> None:
    """Asking for help imports none of the libraries that take longer to import than a person notices."""
    program = f"""
import sys
sys.argv = ["batch-predict", *{arguments!r}]
from batch.cli import main
try:
    main()
finally:
    print(*sorted(set({NOT_FOR_HELP!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    assert done.stdout


def test_import_batch_is_cheap() -> None:
    """``import batch`` loads no module of a third party."""
    program = f"import sys, batch; print(*sorted(set({NOT_FOR_HELP!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == ""


def test_functions_fit_a_screen() -> None:
    """No function is longer than 60 lines without its docstring."""
    long = [
        f"{name}.{node.name}: {code_lines(node)} lines"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > FUNCTION_LINES
    ]
    assert long == []


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return node.end_lineno - node.lineno + 1 - documented


def test_modules_are_about_one_thing() -> None:
    """No module of the package is longer than 350 lines."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "batch").rglob("*.py")}
    assert [f"{module_name(path)}: {lines} lines" for path, lines in lengths.items() if lines > MODULE_LINES] == []
