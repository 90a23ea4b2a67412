"""Classes and files that `launch`, `run` and `options` refuse in one line, and what a file may not change for the whole process."""
import contextlib
import os  # noqa: F401 (as warnings)
import sys
import warnings  # noqa: F401 (what a test evaluates names it)
from pathlib import Path

import numpy
import pytest
import torch
from test_own_methods import launched, mine  # noqa: F401

import methods
from benchmarks.__main__ import main
from benchmarks.machine import numerics

UNUSABLE = {
    "def before_step(self, run):\n        yield": "ValueError, line 2: before_step must be an ordinary function: one with `yield` or `async`",
    "async def after_step(self, run): pass": "after_step must be an ordinary function", "def groups(self): yield {}": "groups must be an ordinary",
    "sparsity = option(0.5)": "an option cannot be named sparsity: every method has", "training = option(True)": "cannot be named training",
    "mask = option(True)": "cannot be named mask", "train = option(True)": "cannot be named train",
    "leak = option(numpy.float64(0.1))": "or a text, not np.float64(0.1) (float64)" if numpy.__version__ >= "2" else "not 0.1 (float64)",
    "mode = option(enum.Enum('Mode', 'a b', type=str).a)": "(Mode)", "options = {'leak': 0.1}": "options must be a @classmethod",
    "@classmethod\n    def levels(cls, sparsity, options): return sparsity": "levels() of mine.py:Mine must return the sparsities",
    "def cycles(self, epochs): return 3": "cycles of Mine must return a list of methods.base.Cycle, not 3",
    "@classmethod\n    def levels(cls, sparsity, options): return [0.5]": "0.9 the last, not [0.5]",
    "@classmethod\n    def levels(cls, sparsity, options): return ()": "0.9 the last, not ()",
    "@classmethod\n    def levels(cls, sparsity, options): return ['0.9']": "0.9 the last, not ['0.9']"}


@pytest.mark.parametrize("words", [["launch", "digits", "--methods"], ["run", "--task", "digits", "--sparsity", "0.9", "--method"]], ids=lambda w: w[0])
@pytest.mark.parametrize("text, said", UNUSABLE.items())
def test_a_class_that_would_not_do_what_it_says_is_refused(mine, text, said, words, capsys):
    (mine / "mine.py").write_text(f"import enum, numpy; from methods.base import Ramped, option\nclass Mine(Ramped):\n    {text}\n")
    assert main([*words, "mine.py:Mine", *["--sparsities", "0.9"] * (words[0] == "launch")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(mine.rglob("*.json"))


@pytest.mark.parametrize("words", [(), ("--set", "lr=0.01")], ids=str)
def test_an_option_with_the_name_of_a_tasks_setting_is_refused(mine, words, capsys):
    """Its rows would say lr=0.01 as those that were trained with it; without it, hours of runs would come before the first that is refused."""
    assert launched("mine.py:OwnRate", *words) == 2
    assert capsys.readouterr().err == ("error: mine.py:OwnRate has an option lr, and so has digits, which alone has its effect: "
                                       "give the method's another name\n")


SETS = {"torch.set_num_threads(3)": "torch.get_num_threads()", "os.chdir('/')": "os.getcwd()", "torch.backends.cudnn.benchmark = True": "torch.backends.cudnn.benchmark",
        "torch.use_deterministic_algorithms(True)": "torch.are_deterministic_algorithms_enabled()",
        "torch.autograd.set_detect_anomaly(True)": "torch.is_anomaly_enabled()", "torch.set_grad_enabled(False)": "torch.is_grad_enabled()",
        "numpy.seterr(all='raise')": "numpy.geterr()", "warnings.simplefilter('error')": "warnings.filters[0]",
        "torch.backends.cudnn.deterministic = False": "torch.backends.cudnn.deterministic",
        "torch.backends.mkldnn.enabled = False": "torch.backends.mkldnn.enabled",
        "torch.backends.cuda.matmul.allow_tf32 = True": "torch.backends.cuda.matmul.allow_tf32",
        "torch.backends.cudnn.allow_tf32 = True": "torch.backends.cudnn.allow_tf32",
        "torch.set_float32_matmul_precision('medium')": "torch.get_float32_matmul_precision()"}
if hasattr(torch.backends, "fp32_precision"):
    SETS |= {f"torch.backends.{part} = 'tf32'": f"torch.backends.{part}" for part in (
        "fp32_precision", "cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision", "mkldnn.matmul.fp32_precision")}


@pytest.mark.parametrize("line, asked", SETS.items(), ids=SETS.values())
def test_what_a_file_sets_for_the_whole_process_ends_with_its_loading(mine, line, asked, arithmetic):
    """A run of another method in the same process would be made with it, and its own row would say another precision."""
    numerics("fp32", torch.device("cpu"))

    def now():
        return [eval(one) for one in SETS.values()]
    before = now()
    for last, error in (("", None), ("1 / 0", ValueError)):
        (mine / "sets.py").write_text(f"import os, numpy, torch, warnings\nfrom methods.base import Ramped\n{line}\n"
                                      f"class Sets(Ramped):\n    inside = {asked}\n{last}")
        with pytest.raises(error) if error else contextlib.nullcontext():
            assert methods.get("sets.py:Sets").inside != eval(asked)
        assert now() == before


def test_a_class_that_is_not_there(mine):
    Path("mine.py").write_text("from methods.base import Ramped, Sparsifier\nclass First(Ramped): pass\nclass Other(Sparsifier): pass\n")
    with pytest.raises(ValueError, match="mine.py has no class Frist derived from methods.Sparsifier; it has First, Other$"):
        methods.get("mine.py:Frist")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """A file beside those of `methods/`."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    methods._methods.cache_clear()
    yield (tmp_path / "put_there.py").write_text
    methods._methods.cache_clear()
    sys.modules.pop("methods.put_there", None)


NAMED = """from methods.base import Ramped
class Put(Ramped):
    name = {!r}
"""


def test_a_file_in_the_folder_is_found(put):
    put(NAMED.format("put"))
    assert "put" in methods.available() and methods.get("put").__module__ == "methods.put_there"


@pytest.mark.parametrize("text, said", [
    ("def broken(:", "put_there.py cannot be loaded: SyntaxError, line 1: "),
    ("\n1 / 0", "put_there.py cannot be loaded: ZeroDivisionError, line 2: "),
    ("import sys\nsys.exit()", "put_there.py cannot be loaded: it ends the program, line 2; what runs it as a program belongs under `if __name__"),
    (NAMED.format(5), "5 is no name for Put of methods.put_there: one of letters, digits and _ is needed"),
    (NAMED.format("my own"), "'my own' is no name for Put"), (NAMED.format("a,b"), "'a,b' is no name for Put"),
    (NAMED.format("rigl"), "'rigl' is a method of methods.dynamic and of methods.put_there: give one of them another name")])
def test_a_file_in_the_folder_that_cannot_be_used_is_one_line(text, said, put, capsys):
    """Above all one with the name of another method, whose rows would be taken for its own."""
    put(text)
    assert main(["options"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
