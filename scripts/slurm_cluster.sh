#!/usr/bin/env bash
# A SLURM of one node on loopback, for tests: scripts/slurm_cluster.sh start|stop FOLDER
#
# Needs root and Debian's packages: apt-get install slurm-wlm munge. All of it (configuration, state, logs, munge's key
# and socket) lies in FOLDER, and its ports are free ones, so that several clusters do not meet; after "start",
# SLURM_CONF=FOLDER/slurm.conf makes sbatch, squeue and scancel use it.
# "stop" ends the daemons that "start" began and no others.
set -euo pipefail
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

start() {
  for command in munged slurmctld slurmd; do
    command -v "$command" >/dev/null || { echo "$command is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
  done
  mkdir -p "$folder"/{state,spool,munge,log}
  chmod 700 "$folder/munge"
  head -c 1024 /dev/urandom >"$folder/munge/key"
  chmod 400 "$folder/munge/key"
  host=$(hostname -s)
  read -r controller_port node_port < <(python3 -c '
import socket
with socket.socket() as one, socket.socket() as other:
    one.bind(("127.0.0.1", 0))
    other.bind(("127.0.0.1", 0))
    print(one.getsockname()[1], other.getsockname()[1])')
  # The node says it has two cores, whatever the machine has: two jobs of one core run at once, on hyperthreads too.
  # cred_expire: a job that is queued again waits for the old credentials to run out, two minutes by default.
  # "urgent" preempts the other partitions: in "graced" a job is told and has 20 s, and SLURM does not queue it again; in
  # "ungraced" it is told and ended, KillWait later killed, and SLURM queues it again.
  cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$controller_port
SlurmdPort=$node_port
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=200000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=15
MinJobAge=60
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 Sockets=2 CoresPerSocket=1 ThreadsPerCore=1 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=graced Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=ungraced Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed"
  slurmctld -c
  slurmd
  for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed'; then echo "export SLURM_CONF=$SLURM_CONF"; return; fi
    sleep 0.5
  done
  echo "the node does not come up: see $folder/log" >&2
  tail -n 5 "$folder"/log/* >&2
  stop
  exit 1
}

stop() {
  if [ -f "$folder/slurmctld.pid" ]; then scancel --user root >/dev/null 2>&1 || true; fi
  for file in slurmd.pid slurmctld.pid munge/pid; do
    pid=$(cat "$folder/$file" 2>/dev/null || true)
    [ -n "$pid" ] || continue
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
  # the supervisors of job steps, should some be left: they name this folder's spool
  pids=$(grep -lsF "$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | grep -vx "$$" || true)
  for pid in $pids; do
    case $(cat "/proc/$pid/comm" 2>/dev/null || true) in slurmstepd*|slurmd) kill -9 "$pid" 2>/dev/null || true ;; esac
  done
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop FOLDER" >&2; exit 2 ;;
esac
