"""What the pages say of the files: where things are, and that imports run one way."""
import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imported(path, package):
    """The modules of its own package that a file imports, anywhere in it, by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            found |= {node.module.split(".")[1]} if "." in node.module else {name.name for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith(f"{package}.")}
    return found


def test_the_benchmarks_import_each_other_one_way():
    files = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    imports = {name: imported(path, "benchmarks") & {*files} for name, path in files.items()}
    assert {"train", "checkpoint"} <= imports["run"] and "imagenet" in imports["data"]  # at the top of a file, and within a function
    order = [*TopologicalSorter(imports).static_order()]  # raises CycleError, which names the circle
    assert order.index("batches") < order.index("train") < order.index("launch") < order.index("__main__")


@pytest.mark.parametrize("page", ["benchmarks/README.md"])
def test_a_page_names_each_file_beside_it(page):
    text, folder = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    unnamed = [path.name for path in folder.glob("*.py") if f"`{path.name}`" not in text and path.name != "__init__.py"]
    assert not unnamed, f"{page} does not say what these are: {unnamed}"
