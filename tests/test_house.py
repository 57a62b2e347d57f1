"""The rules of the house: what may import what, and what no file may hold."""

import ast
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from shared.randomness import OSNoise
from simulations.cli import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "client", "server", "simulations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]
CATCH_ALL = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "numpy.load", "np.loads"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file with the dotted name that is called."""
    return [(ast.unparse(n.func), n) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_rules() -> None:
    fresh("from importlinter.cli import lint_imports_command as run; run(['--no-cache'])")


def assigned(body: list[ast.stmt]) -> set[str]:
    """Names that a module binds by assignment or import."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def defined(body: list[ast.stmt], apps: set[str]) -> set[str]:
    """Public functions and classes; a function that only registers with an app is not one."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = [n for n in body if isinstance(n, kinds) and not n.name.startswith("_")]
    return {
        n.name
        for n in nodes
        if not any(ast.unparse(d).split(".")[0] in apps for d in n.decorator_list)
    }


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_all_names_every_public_definition(path: Path) -> None:
    body = tree(path).body
    bound = assigned(body)
    apps = {name for name in bound if name in {"app", "data"}}
    lists = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    declared = set(lists[0]) if lists else set()
    assert not lists or len(lists[0]) == len(declared)
    public = defined(body, apps)
    assert public <= declared, f"missing in __all__: {sorted(public - declared)}"
    known = bound | defined(body, set())
    assert declared <= known, f"not defined: {sorted(declared - known)}"


def test_no_catch_all_file() -> None:
    parts = {p for path in SOURCES for p in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & CATCH_ALL


def test_no_file_over_450_lines() -> None:
    sizes = {
        name: len(path.read_text().splitlines()) for name, path in zip(NAMES, SOURCES, strict=True)
    }
    assert {name: size for name, size in sizes.items() if size > 450} == {}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_that_executes_data(path: Path) -> None:
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & FORBIDDEN_MODULES
    for name, call in calls(path):
        if name in {"np.load", "numpy.load"}:
            allowed = [k for k in call.keywords if k.arg == "allow_pickle"]
            assert all(isinstance(k.value, ast.Constant) and not k.value.value for k in allowed)
        else:
            assert name not in FORBIDDEN_CALLS


def test_releases_are_made_in_the_privacy_room_only() -> None:
    makers = {
        name
        for name, path in zip(NAMES, SOURCES, strict=True)
        for called, _ in calls(path)
        if called.split(".")[-1] == "Release"
    }
    assert all(name.startswith("shared/privacy/") for name in makers), makers


def test_seeds_never_reach_protective_noise() -> None:
    assert not inspect.signature(OSNoise).parameters
    for path in SOURCES:
        for called, call in calls(path):
            if called.split(".")[-1] == "OSNoise":
                assert not [*call.args, *call.keywords], path
    body = ast.parse(inspect.getsource(OSNoise))
    named = {n.id for n in ast.walk(body) if isinstance(n, ast.Name)}
    named |= {n.attr for n in ast.walk(body) if isinstance(n, ast.Attribute)}
    assert not [name for name in named if "seed" in name.lower()]
    assert not named & {"stream", "default_rng", "random", "RandomState", "manual_seed"}


def test_the_courier_is_light() -> None:
    heavy = ("torch", "opacus", "fastapi", "polars", "dp_accounting", "scipy")
    code = f"import sys, client.app; print([m for m in {heavy!r} if m in sys.modules])"
    assert fresh(code).strip() == "[]"


def test_flower_app_ships_no_template() -> None:
    """Flower drops such files from its bundle without a word, so nothing may rely on them."""
    rooms = (ROOT / "client", ROOT / "shared")
    stray = [p for room in rooms for s in ("*.html", "*.css", "*.csv") for p in room.rglob(s)]
    assert stray == []


def readme_commands() -> list[str]:
    """Every `fedrec ...` line of README's code blocks."""
    blocks = README.split("```")[1::2]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [line for line in lines if line.startswith("fedrec ")]


def test_readme_shows_commands() -> None:
    assert len(readme_commands()) >= 5


@pytest.mark.parametrize("line", sorted(set(readme_commands())))
def test_readme_commands_exist(line: str) -> None:
    """Each command of README parses; nothing is run."""
    command: click.Command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = click.Context(command, info_name="fedrec")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"no such command: {words[0]}"
        command, context = found, click.Context(found, info_name=words[0], parent=context)
        words = words[1:]
    command.make_context(command.name or "", words)


def test_readme_names_every_exit_code_and_the_test_command() -> None:
    for code in ("0", "1", "2", "3", "4", "130"):
        assert f"| {code} |" in README
    lines = [line for line in README.splitlines() if line.startswith("pip install -e '.[dev]'")]
    assert len(lines) == 1
    assert "&& pytest " in lines[0]
