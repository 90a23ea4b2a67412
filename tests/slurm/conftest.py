"""A real SLURM cluster of this machine, where its programs are installed (`.ci/run` installs them)."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment that names the cluster."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"SLURM is not installed here ({', '.join(missing)} missing; Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid():
        pytest.skip("starting a SLURM cluster needs root")
    folder = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    done = subprocess.run(["bash", str(SCRIPT), "start", str(folder)], env=environment, stdout=subprocess.PIPE, text=True, timeout=600)
    try:
        assert done.returncode == 0, "".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
        yield environment
    finally:
        subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], env=environment)
