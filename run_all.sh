#!/usr/bin/env bash
# bash run_all.sh [SUITE] [options]       runs what is missing of a suite, collects the rows, draws every figure
#                                         and judges the papers' claims anew (RESULTS/REPORT.md)
# bash run_all.sh test [pytest options]   runs the tests, in up to four processes
# bash run_all.sh setup                   only sets up .venv, which the others do first where needed
#
# SUITE: digits (default), cifar10, cifar100, imagenet. Options: those of `python -m benchmarks launch`.
# PYTHON=... names the Python (3.10 or later) to make .venv with.
# Exit status: 0 all done; 1 some runs or tests failed; 2 bad arguments, or no .venv can be made; 130 stopped (Ctrl-C, kill, a closed terminal).

here=$(pwd -P)
CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 2
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
trap 'exit 130' INT TERM HUP

fail() {
    echo "error: $1" >&2
    exit 2
}

new_enough() {
    "$1" -c "import sys${2:-}; sys.exit(sys.version_info < (3, 10))" 2>/dev/null
}

find_python() {
    local names=(python3 python3.13 python3.12 python3.11 python3.10 python)
    case ${PYTHON:-} in
        "") ;;
        [!/~]*/*) names=("$here/$PYTHON") ;;  # a relative path is the caller's
        *) names=("$PYTHON") ;;
    esac
    for python in "${names[@]}"; do
        if new_enough "$python"; then return; fi
    done
    fail "no Python 3.10 or later (tried: ${names[*]}); install one, or name it with PYTHON=/path/to/python3"
}

# What an installation was made from; written when it has ended, so that an interrupted one starts again. It leads to this folder: one that was
# copied or moved needs another.
origin() {
    cat pyproject.toml
    echo "# installed from $PWD"
}

ready() {
    origin | cmp -s - .venv/installed && .venv/bin/python -c "" 2>/dev/null
}

set_up() {
    if ready; then return; fi
    for needed in ./ pyproject.toml .venv; do  # the second to lock it
        if [[ -e $needed && ! -w $needed ]]; then
            fail "$PWD/${needed#./} cannot be written, which setting up .venv needs: copy the project to a folder of yours"
        fi
    done
    if command -v flock >/dev/null; then
        exec 9>>pyproject.toml  # nothing is added: NFS locks for one alone what is open for writing
        flock -n 9 || { echo "waiting for another start that is setting up .venv"; flock 9; }
    else
        lock_folder
    fi
    if ! ready; then install; fi
    exec 9>&-
    if [[ -n ${lock:-} ]]; then rmdir "$lock"; lock=""; fi
}

# The lock where there is no flock, as on macOS: a folder, which stays behind where this shell is killed.
lock_folder() {
    local said absent=0 tries=0
    until said=$(mkdir .venv.lock 2>&1); do
        if [[ ! -d .venv.lock ]] && ((absent++)); then fail "$said"; fi  # the first time another start may have removed it just now
        if ((tries++ == 0)); then echo "waiting for another start that is setting up .venv; if there is none: rmdir $PWD/.venv.lock"; fi
        sleep 1
    done
    lock=$PWD/.venv.lock
    trap 'if [[ -n $lock ]]; then rmdir "$lock"; fi' EXIT
}

install() {
    echo "setting up .venv with $("$python" --version): this installs PyTorch and the rest once (a few minutes; with CUDA 6 GB)"
    if ! new_enough .venv/bin/python ", pip"; then
        new_enough "$python" ", ensurepip, venv" ||
            fail "$python cannot make virtual environments: install python3-venv, or name another with PYTHON="
        said=$("$python" -m venv --clear .venv 2>&1) || fail "$python could not make .venv: ${said##*$'\n'}"
    fi
    mkdir -p .venv/tmp  # where pip unpacks: /tmp may be too small for it
    TMPDIR=$PWD/.venv/tmp .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -e . >.venv/install.log 2>&1
    local failed=$?
    rm -rf .venv/tmp
    if ((failed)); then
        cat .venv/install.log >&2
        fail "the installation failed, see above (kept in $PWD/.venv/install.log); the same command tries again"
    fi
    # on all cores, where pip uses one; without the libraries' tests, a fourth of all. Some files are for other Pythons
    .venv/bin/python -m compileall -q -j 0 -x '/tests?/' .venv/lib >/dev/null 2>&1
    origin >.venv/installing && mv .venv/installing .venv/installed
}

if ready; then python=.venv/bin/python; else find_python; fi

case ${1:-} in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' run_all.sh
        exit ;;
    setup)
        set_up
        exit ;;
    test)
        set_up
        # a file's tests share what they set up: they stay in one process; files in the order of tests/conftest.py
        exec .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "${@:2}" ;;
    "" | -*)
        set -- digits "$@" ;;
esac

if [[ $here != "$PWD" ]]; then  # relative paths are the caller's
    before=""
    for word; do
        shift
        case $word in
            --results=[!/~]* | --data=[!/~]* | --methods=[!/~]*.py:*) word=${word%%=*}=$here/${word#*=} ;;
            [!/~-]*.py:*) word=$here/$word ;;
            [!/~-]*) if [[ $before == --results || $before == --data ]]; then word=$here/$word; fi ;;
        esac
        before=$word
        set -- "$@" "$word"
    done
    if [[ -n ${DATA_DIR:-} && $DATA_DIR != [/~]* ]]; then DATA_DIR=$here/$DATA_DIR; fi
fi

for word; do
    if [[ $word == -h || $word == --help ]]; then exec "$python" -m benchmarks launch --help; fi
done

# Bad arguments end here, before any installation (but for names of methods and options, which need torch).
asked=$("$python" - "$@" <<'END'
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # this shell says what there is to say
import sys
answer, sys.stdout = sys.stdout, sys.stderr  # where a suite's file may print
from pathlib import Path
from benchmarks.__main__ import parser
from benchmarks.command import at_least_one, chosen_options
from benchmarks.grid import Spec
from benchmarks.method_files import file_of
from benchmarks.own_suites import FAULTS
from benchmarks.suites import suite_grid
try:
    args = parser().parse_args(["launch", *sys.argv[1:]])
    if not FAULTS:  # else the launch says what is wrong: before the installation a suite's file may lack a library
        suite_grid(args.suite, args.profile, ())
    chosen_options(args)
    at_least_one(args, "jobs")
    for method in args.methods or ():
        if (path := file_of(method)) and not Path(path).is_file():
            raise ValueError(f"there is no file {path} for the method {method}")
    for sparsity in args.sparsities or (0.5,):
        Spec(args.suite, "any", sparsity, 0, args.epochs)
except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
print(args.suite, args.profile, args.precision or "-", args.epochs or "-", args.results, sep="\n", file=answer)
END
) || exit 2

set_up
.venv/bin/python -m benchmarks launch "$@" &
launch=$!
trap 'kill -TERM $launch 2>/dev/null; wait $launch; exit 130' INT TERM HUP  # each is a launch's Ctrl-C, which the shell keeps from it
wait $launch
status=$?
trap 'exit 130' INT TERM HUP
if ((status > 1)); then exit $status; fi
for name in suite profile precision epochs results; do IFS= read -r "$name"; done <<<"$asked"
figures=(--profile "$profile" --results "$results")
if [[ $precision != - ]]; then figures+=(--precision "$precision"); fi
if [[ $epochs != - ]]; then figures+=(--epochs "$epochs"); fi
.venv/bin/python reproduce/report.py --results "$results" >/dev/null &
.venv/bin/python -m reproduce "$suite" "${figures[@]}" || status=1
wait $! || status=1
exit $status
