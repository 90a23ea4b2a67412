"""The grids of runs: what a Spec is, and what the suites hold."""
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import suites
from benchmarks.grid import Grid, Spec, union
from methods import available

ROOT = Path(__file__).resolve().parent.parent


def test_key_is_stable():
    # sha256 of {"method":"st3","seed":0,"sparsity":0.9,"task":"digits"}
    assert Spec("digits", "st3", 0.9, 0).key == "bcd2f79066f7"
    assert Spec("digits", "st3", 0.9, 0, epochs=10, precision="bf16", options={"gamma": 2, "a": "x"}).key == "4f6b898697af"


def test_key_ignores_defaults_and_the_order_of_options():
    plain = Spec("digits", "st3", 0.9, 0)
    assert Spec("digits", "st3", 0.9, 0, epochs=None, precision=None, options=()) == plain
    one = Spec("digits", "st3", 0.9, 0, options=(("a", 1), ("b", "2")))
    other = Spec("digits", "st3", 0.9, 0, options=(("b", 2), ("a", "1")))
    assert one.key == other.key != plain.key
    assert len({plain.key, Spec("digits", "st3", 0.9, 1).key, Spec("digits", "st3", 0.9, 0, epochs=10).key}) == 3


def test_dense_has_no_sparsity():
    assert Spec("digits", "dense", 0.9, 0).key == Spec("digits", "dense", 0, 0).key and Spec("digits", "dense", 0.9, 0).sparsity == 0
    assert len(list(Grid(("digits",), ("dense", "st3"), (0.8, 0.9), (0, 1, 2)))) == 3 + 6


@pytest.mark.parametrize("change, word", [
    ({"sparsity": 1}, "sparsity"), ({"sparsity": -0.1}, "sparsity"), ({"sparsity": "0.9"}, "sparsity"),
    ({"sparsity": float("nan")}, "sparsity"), ({"seed": -1}, "seed"), ({"seed": 0.5}, "seed"), ({"epochs": 0}, "epochs"),
    ({"task": ""}, "task"), ({"method": " "}, "method"), ({"precision": ""}, "precision"),
    ({"options": (("a", 1), ("a", 2))}, "options"), ({"options": "ab"}, "options"), ({"options": {" ": 1}}, "options"),
    ({"options": {"a=b": 1}}, "options"), ({"options": {2: 1}}, "options"), ({"seed": True}, "seed"), ({"epochs": True}, "epochs"),
    ({"sparsity": True}, "sparsity"), ({"sparsity": False}, "sparsity"),
])
def test_bad_spec_is_one_line(change, word):
    with pytest.raises(ValueError, match=f"^{word} must [^\n]*$"):
        Spec(**{"task": "digits", "method": "st3", "sparsity": 0.9, "seed": 0, **change})


def test_command_carries_every_field():
    spec = Spec("digits", "my file.py:Mine", 0.965, 2, epochs=8, precision="bf16", options={"note": "a b", "gamma": 0.5})
    assert shlex.split(spec.command()) == [
        "python", "-m", "benchmarks", "run", "--task", "digits", "--method", "my file.py:Mine", "--sparsity", "0.965",
        "--seed", "2", "--epochs", "8", "--precision", "bf16", "--set", "gamma=0.5", "--set", "note=a b"]


def test_union_keeps_order_and_has_no_duplicates():
    first, second = (Grid(("digits",), methods, (0.9,), (0, 1)) for methods in (("b", "a"), ("a", "c")))
    assert [(s.method, s.seed) for s in union(first, second)] == [("b", 0), ("b", 1), ("a", 0), ("a", 1), ("c", 0), ("c", 1)]


@pytest.mark.parametrize("suite", suites.SUITES)
def test_suite_holds_its_figures_and_its_profiles_never_mix(suite):
    paper, quick = ({spec.key for spec in suites.grid(suite, profile)} for profile in suites.PROFILES)
    assert not paper & quick, f"{len(paper & quick)} runs of {suite} are of both profiles: SIZES needs unlike epochs for them"
    least = 3 * (1 + 3 * (len(available()) - 1)) if suite != "imagenet" else 87
    assert len(suites.grid(suite, "paper")) == len(paper) >= least
    assert {spec.key for name, script in suites.scripts().items() for spec in script.grid(suite, "paper")
            if (suite, name) != ("imagenet", "beyond")} <= paper


def test_unknown_suite_or_profile():
    for words in (("mnist", "paper"), ("digits", "fast")):
        with pytest.raises(ValueError, match="unknown"):
            suites.grid(*words)


def test_grids_load_no_drawing_library():
    code = ("import sys; from benchmarks import suites; suites.grid('cifar10'); "
            "print([m for m in ('pandas', 'seaborn', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_sparsity_of_minus_zero_is_zero():
    """As a sum of decimals may be: its text, which the key is made of, would be another one."""
    assert Spec("digits", "st3", -0.0, 0).key == Spec("digits", "st3", 0, 0).key and "-0" not in Spec("digits", "st3", -0.0, 0).command()


def test_what_a_row_could_not_hold_is_no_spec():
    assert dict(Spec("digits", "st3", 0.9, 2 ** 64 - 1, options={"file": "/a b/c=d"}).options) == {"file": "/a b/c=d"}
    with pytest.raises(ValueError, match="seed must be less than"):
        Spec("digits", "st3", 0.9, 2 ** 64)
    with pytest.raises(ValueError, match="no ' name=' in a value"):
        Spec("digits", "st3", 0.9, 0, options={"file": "a width=2"})
