"""What the pages say of the files: where things are, and that imports run one way."""
import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imported(path, package):
    """The modules of its own package that a file imports, anywhere in it, as "run" or "gpu.pack" (or what it imports from these)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith(f"{package}.")}
    return {name.removeprefix(f"{package}.") for name in found}


def test_the_benchmarks_import_each_other_one_way():
    folder = ROOT / "benchmarks"
    files = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in folder.rglob("*.py")}
    imports = {name: imported(path, "benchmarks") & {*files} for name, path in files.items()}
    assert {"train", "checkpoint"} <= imports["run"] and "imagenet" in imports["data"]  # at the top of a file, and within a function
    order = [*TopologicalSorter(imports).static_order()]  # raises CycleError, which names the circle
    assert order.index("batches") < order.index("train") < order.index("launch") < order.index("__main__")


@pytest.mark.parametrize("page", ["benchmarks/README.md"])
def test_a_page_names_each_file_beside_it(page):
    text, folder = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    speaking = ("models", "own_suites")  # files there are what their folders' names say
    files = (path for path in folder.rglob("*.py") if path.parent.name not in speaking)
    unnamed = [path.name for path in files if f"`{path.name}`" not in text and path.name != "__init__.py"]
    assert not unnamed, f"{page} does not say what these are: {unnamed}"
