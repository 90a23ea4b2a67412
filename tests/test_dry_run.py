"""A few steps of a method before its runs, which name its mistakes in one line each."""
from pathlib import Path

import pytest
from test_every_method import EXAMPLES

from benchmarks import launch as launcher
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.trial import dry_run as trial
from benchmarks.trial import own_methods
from benchmarks.trial.dry_run import dry_run
from methods import available

METHODS = (Path(__file__).parent / "mistaken_methods.py").read_text()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHODS)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "exits.py").write_text("import argparse\nargparse.ArgumentParser().parse_args([])\nraise SystemExit")
    (tmp_path / "list.py").write_text("from methods.base import Ramped, option\nclass Mine(Ramped):\n    rates = option([0.1, 0.2])")
    return tmp_path


@pytest.mark.parametrize("method, parts", [
    ("mine.py:NoMethod", ("NoMethod", "derived from methods.Sparsifier")), ("mine.py:Missing", ("Missing",)),
    ("nowhere.py:Mine", ("nowhere.py",)), ("broken.py:Mine", ("broken.py", "SyntaxError", "line 1")),
    ("exits.py:Mine", ("exits.py", "ends the program", "line 3")), ("mine.py:Uneven", ("levels() has 2 sparsities", "cycles() 1 cycle")), ("mine.py:Evaluates", ("evaluation mode", "run.model.train()")),
    ("mine.py:TensorCost", ("training_cost is tensor(0.5000)",)), ("mine.py:TensorGoes", ("before_step of TensorGoes", "not Tensor")),
    ("mine.py:FloatLoss", ("added_loss of FloatLoss", "not float")), ("mine.py:Contains", ("RecursionError", "such as run.model, cannot be")),
    ("mine.py:NoGroups", ("groups() of NoGroups must return a list",)),
    ("mine.py:SkipExits", ("SkipExits: skip fails (SystemExit: 0)",)),
    ("mine.py:WrongShape", ("digits", "0.9", "(19407,)", "(19408,)")), ("mine.py:NoTensor", ("forward", "NoneType")),
    ("mine.py:NoGradient", ("forward", "gradient")), ("mine.py:ForwardNaN", ("forward", "NaN", "step 1")),
    ("mine.py:StepNaN", ("NaN", "after step 1")),
    ("mine.py:ChangesTheta", ("forward changes theta or the mask",)), ("mine.py:ChangesMask", ("forward changes theta or the mask",)),
    ("mine.py", ("mine.py:CLASS",)), ("list.py:Mine", ("list.py", "line 3", "default", "[0.1, 0.2]")),
    ("mine.py:Costlier", ("gradient = \"dense\"", "outside the mask")), ("mine.py:NoSuchCost", ("'sparse'", "superset")),
    ("mine.py:Pays", ("training_cost is -3.0",)), ("mine.py:Free", ("training_cost is 0.0",)),
    ("mine.py:FloatMask", ("torch.float32", "set_mask")), ("mine.py:NoBudget", ("final_budget of NoBudget must return a whole number, not None",)),
    ("mine.py:HalfBudget", ("budget_at(0) must return a whole number, not 10.5",)),
    ("mine.py:Forgets", ("stopped", "no checkpoint holds", "buffer")), ("mine.py:LateBuffer", ("method.rate", "made in __init__")),
    ("mine.py:LateTensor", ("stopped cannot go on", "buffers, made in __init__", "after_step (mine.py", "no attribute 'mean'")),
    ("mine.py:Dice", ("draws numbers that no seed decides", "run.random")),
    ("mine.py:Typo", ("sparsity 0.9, interval=1: AttributeError in growth_score (mine.py, line", "'bonus'")),
    ("mine.py:OwnDice", ("interval=1: ", "draws numbers that no seed decides")), ("mine.py:OwnGenerator", ("interval=1: ", "no checkpoint holds")),
    ("mine.py:Halves", ("write the optimiser's \"lr\"", "Cycle(epochs, lr=…)", "lr_scale", "before_step")),
    ("mine.py:NoSuper", ("NoSuper.__init__ must begin with super().__init__(",)),
    ("mine.py:Leaks", ("mask says are zero",)), ("mine.py:Raises", ("RuntimeError", "start", "mine.py, line", "on purpose")),
])
def test_mistakes_are_one_line_before_any_run(mine, method, parts, capsys, monkeypatch):
    monkeypatch.setattr(launcher, "launch", lambda *a, **k: pytest.fail("was launched"))
    assert main(["leaderboard", "digits", "--method", method]) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert out == "" and line.startswith("error: ") and all(part in line for part in parts), err
    assert len(err.splitlines()) <= 2 and not list(mine.rglob("*.json"))


def test_what_is_a_buffer_is_not_forgotten(mine):
    dry_run(Spec("digits", "mine.py:Remembers", 0.9, 0), "data")


@pytest.mark.parametrize("method", [*available(), *EXAMPLES])
def test_every_method_passes_the_dry_run(method):
    assert dry_run(Spec("digits", method, 0.9, 0), "data") == ([], None)  # and ends with its budget


def test_a_schedule_in_epochs_of_its_own_is_no_mistake_before_a_run_ends(mine, capsys):
    words = ["run", "--task", "digits", "--method", "mine.py:Late", "--sparsity", "0.9", "--epochs"]
    said = ("mine.py:Late on digits at sparsity 0.9: in a trial of 1 epoch of 2 steps 19408 weights are active at the end, the budget is 1941; "
            "nothing has changed the mask (set_mask does, in a hook); where that is so at the end of a run, too, it fails\n")
    assert main([*words, "2"]) == 0 and capsys.readouterr().err == said
    assert main([*words, "1"]) == 1
    out, err = capsys.readouterr()
    assert said in err and "failed: RuntimeError: 19408 weights are active, the budget is 1941" in out


def test_a_hook_that_stands_in_the_place_of_what_prunes_is_named(mine):
    said = dry_run(Spec("digits", "mine.py:Silent", 0.9, 0), "data")[1]
    assert "the budget is 1941; its after_step replaces that of GMP (super().after_step(…) calls it); where" in said and "start" not in said


@pytest.mark.parametrize("name, said", [
    ("NewBuffer", "self.mean becomes another tensor in its steps, and a step recorded on a GPU keeps the first: change it in place"),
    ("Attached", "self.mean carries a gradient from step to step"), ("NoStep", "its steps change no weight: before_step returns False"),
    ("Half", "at the end it keeps 9704 of 19408 weights, not the 1941 of this sparsity: its rows are shown, not ranked (--sparsities 0.5)")])
def test_what_may_be_meant_is_told_of_before_a_run(mine, name, said):
    assert said in dry_run(Spec("digits", f"mine.py:{name}", 0.9, 0), "data")[1]


def test_each_method_with_a_mistake_is_named(mine, capsys):
    words = ["--sparsities", "0.9", "--seeds", "1", "--results", str(mine / "results")]
    assert main(["launch", "digits", "--methods", "mine.py:WrongShape", "mine.py:Late", "mine.py:StepNaN", *words]) == 2
    warned, first, second = capsys.readouterr().err.splitlines()
    assert "mine.py:Late" in warned and first.startswith("error: mine.py:WrongShape") and second.startswith("error: mine.py:StepNaN")


def test_what_goes_wrong_in_a_second_cycle_is_said(mine):
    (mine / "mine.py").write_text(METHODS + """
from methods.base import Cycle
class Twice(Sparsifier):
    first = 0
    def cycles(self, epochs):
        return [Cycle(epochs), Cycle(epochs, self.first)]
    def budget_at(self, cycle):
        return self.budget if cycle else self.layout.size
    def start(self, run, cycle):
        if cycle:
            raise RuntimeError("on\\npurpose")
class Nothing(Twice):
    first = 1
""")
    names, said = dry_run(Spec("digits", "mine.py:Twice", 0.9, 0), "data")
    where = "in the second cycle of a trial of a few steps: RuntimeError in start (mine.py, line"
    assert said.startswith(f"mine.py:Twice on digits at sparsity 0.9: {where}")
    assert said.endswith(": on purpose; where that is so in a run, it fails") and names == []
    assert dry_run(Spec("digits", "mine.py:Nothing", 0.9, 0), "data") == ([], None)  # in an epoch it has no second cycle


def test_what_is_rare_is_tried_where_nobody_chose_how_rare(mine):
    """And then the optimiser takes a step, too, of a method whose updates take its place."""
    seen = []

    def interval(method, *options):
        seen.append(trial.brief(Spec("digits", method, 0.9, 0, options=options), 1))
        dry_run(Spec("digits", method, 0.9, 0, options=options), "data")
    (mine / "mine.py").write_text(METHODS + """
class Share(Good):
    interval = option(0.25)
class Even(Good):
    interval = option(4, least=2)
class Seldom(get("rigl")):
    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        if self.interval <= 5:
            raise ValueError("not so often")
class Applies(get("rigl")):
    def after_step(self, run):
        if run.step + 1 == run.total_steps and not run.optimizer.state:
            raise ValueError("the optimiser has taken no step")
""")
    interval("mine.py:Applies"), interval("rigl", ("interval", "50")), interval("mine.py:Share"), interval("mine.py:Even"), interval("gmp")
    interval("mine.py:Seldom")  # refuses it
    assert seen == [{"interval": 1}, {}, {}, {}, {}, {}]


def test_other_sparsities_are_tried_with_their_own_interval_alone(monkeypatch):
    """The code is the same, and these steps twice as many."""
    tried = []
    monkeypatch.setattr(trial, "dry_run", lambda spec, folder, device, often: (tried.append((spec.method, spec.sparsity, often)), ([], None))[1])
    own_methods.rehearse([Spec("digits", method, s, seed) for method in ("set", "rigl") for s in (0.9, 0.95) for seed in (0, 1)], "data")
    assert tried == [("set", 0.9, True), ("set", 0.95, False), ("rigl", 0.9, True), ("rigl", 0.95, False)]


def test_a_run_of_several_processes_is_tried_with_the_part_of_a_batch_that_one_has(monkeypatch):
    sizes = []

    def some_steps(trainer, *_):
        sizes.append((trainer.task.batch_size, len(trainer.data.train)))
        return trainer, None
    monkeypatch.setattr(trial, "some_steps", some_steps)
    for processes in (1, 4):
        monkeypatch.setattr(trial.team, "wanted", lambda task, device: processes)
        dry_run(Spec("digits", "static", 0.9, 0), "data")
    assert sizes == [(64, 128)] * 2 + [(16, 32)] * 2  # each once more, stopped in the middle
