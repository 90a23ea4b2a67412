#!/usr/bin/env bash
# cluster.sh start DIR   a SLURM cluster of this one machine in DIR, with munge; prints the path of its slurm.conf
# cluster.sh stop DIR    stops it
#
# Needs root and slurmctld, slurmd, slurm-client and munge (Debian's packages). Accounting is off, as sacct needs a data base.
set -u
dir=$2

port() {
    python3 -c "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"
}

start() {
    local host
    host=$(hostname)
    mkdir -p "$dir"/ctld "$dir"/slurmd /run/munge && chown munge /run/munge || return 1
    (
        flock 9  # two clusters may start at once, and one munged is enough
        munge -n </dev/null >/dev/null 2>&1 && exit
        [[ -f /etc/munge/munge.key ]] || runuser -u munge -- mungekey || exit 1
        runuser -u munge -- munged 9>&-
    ) 9>/run/munge/start.lock || return 1
    # cred_expire: a requeued job waits for so long (seconds, more than 5), and a start may take as long. KillWait: from SIGTERM to SIGKILL.
    # Six CPUs, for jobs that mostly sleep.
    cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
AuthType=auth/munge
AuthInfo=cred_expire=10
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/ctld
SlurmdSpoolDir=$dir/slurmd
SlurmctldPidFile=$dir/ctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/ctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
KillWait=10
MessageTimeout=60
BatchStartTimeout=60
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=6 RealMemory=2000 Gres=gpu:1 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
PartitionName=hidden Nodes=$host Hidden=YES MaxTime=INFINITE State=UP
END
    echo "Name=gpu File=/dev/null" >"$dir/gres.conf"  # a GPU as far as SLURM knows
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -f "$SLURM_CONF" >"$dir/start.log" 2>&1 && slurmd -f "$SLURM_CONF" >>"$dir/start.log" 2>&1 || return 1
    for _ in $(seq 1000); do
        if sinfo --noheader --states=idle 2>/dev/null | grep -q debug; then
            echo "$SLURM_CONF"
            return 0
        fi
        sleep 0.2
    done
    return 1
}

stop() {
    export SLURM_CONF=$dir/slurm.conf
    if [[ -s $dir/slurmd.pid ]]; then
        scancel --full --signal=KILL --user=root 2>/dev/null
        scancel --user=root 2>/dev/null
        for _ in $(seq 50); do [[ -n $(squeue --noheader 2>/dev/null) ]] || break; sleep 0.2; done
    fi
    for name in slurmd ctld; do
        [[ -s $dir/$name.pid ]] || continue
        pid=$(cat "$dir/$name.pid")
        kill "$pid" 2>/dev/null
        for _ in $(seq 25); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
        kill -9 "$pid" 2>/dev/null
    done
    return 0
}

case $1 in
    start) start || { stop; echo "the cluster did not come up; see $dir/*.log" >&2; exit 1; } ;;
    stop) stop ;;
esac
