"""`python -m benchmarks options [METHOD [TASK] | TASK]`: all methods and tasks, and what `--set` can change of them. Torch is imported only where
it is needed."""
from benchmarks.grid import Spec
from benchmarks.method_files import file_of
from benchmarks.tasks import DATASETS, TASKS, get_task, settle, suite_of


def add_arguments(sub):
    """The command's own arguments."""
    sub.add_argument("name", nargs="?", metavar="METHOD|TASK", help="such as st3, mine.py:Mine or cifar10-resnet20")
    sub.add_argument("task", nargs="?", metavar="TASK", help="after a METHOD: with the defaults that it has there")


def show(args):
    """The command; returns its exit status. Raises ValueError in one line for an unknown name."""
    from methods import available, get
    if not args.name:
        for name in available():
            print(f"{name:17} {(get(name).__doc__ or '').partition(chr(10))[0]}".rstrip())
        for name, task in TASKS.items():
            width = f" of width {task.width:g}" * (task.width != 1)
            print(f"{name:21} {DATASETS[task.dataset].title}, {task.model}{width}, {task.epochs} epochs")
        return 0
    of_task = suite_of(args.name) in map(suite_of, TASKS)
    if of_task and args.task:
        raise ValueError(f"a TASK comes after a METHOD, and {args.name} is none")
    settings = get_task(args.name).settings() if of_task else options_of(args.name)
    there = settle(Spec(args.task, args.name, 0.0, 0))[1] if args.task else {}
    for name, option in settings.items():
        default = there.get(name, option.default)
        values = "|".join(map(str, [default, *(value for value in option.choices if value != default)]))
        print(f"{name}={values}  {option.help}".rstrip())
    for name, value in get_task(args.name).defaults.items() if of_task else ():
        print(f"{name}={value}  default here, where a method has such an option")
    return 0


def options_of(method):
    from methods import available, get
    from methods.options import nearest
    try:
        return get(method).options()
    except ValueError:
        if file_of(method) or method.endswith(".py"):
            raise
        raise ValueError(nearest(method, [*available(), *TASKS], "method or task") + " (`python -m benchmarks options` lists all)") from None
