"""Copies of the project's packages, in which tests start commands."""
import shutil

from stored import ROOT


def copy_packages(folder, *names):
    """Copies these packages to a folder, with Python's compiled files, or each copy's first command would compile them all; without those that another
    process is just writing, and without numba's."""
    for name in names:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*", "*.nb*"))
