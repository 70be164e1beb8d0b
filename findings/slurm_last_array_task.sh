#!/bin/bash
# Slurm: the last task of a job array has the array's own id as its SLURM_JOB_ID.
#
# The guess: `scontrol requeue $SLURM_JOB_ID` in a job's script queues that one task again.
# What is so: for the last task to start the id is the array's, so every task that runs is killed and queued again, and
# tasks that were completed run again. ARRAYJOBID_TASKID names one task.
#
# Needs root on Debian or Ubuntu with apt; starts a Slurm of its own on this host, on free ports, and stops it.
set -eu
export DEBIAN_FRONTEND=noninteractive PATH="$PATH:/usr/sbin:/sbin"
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v sbatch >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client >/dev/null
fi
work=$(mktemp -d)
finish() {
  for file in "$work"/*.pid; do
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
  sleep 1
  rm -rf "$work"
}
trap finish EXIT
mkdir "$work/state" "$work/spool"
host=$(hostname -s)
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cat >"$work/slurm.conf" <<END
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool/%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(port) CPUs=2 RealMemory=500 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(port) CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$work/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N node1
slurmd -f "$SLURM_CONF" -N node2
for _ in $(seq 120); do
  sinfo -h -o %F 2>/dev/null | grep -q /2/0/2 && break
  sleep 0.5
done

cat >"$work/job.sh" <<'END'
#!/bin/bash
#SBATCH --requeue
echo "$SLURM_ARRAY_TASK_ID $SLURM_JOB_ID" >>"$OUT/starts"
[ "$SLURM_ARRAY_TASK_ID" = 0 ] && exit 0 # completed before the others are queued again
sleep 600
END
chmod +x "$work/job.sh"
job=$(OUT="$work" sbatch --parsable --export=ALL --array=0-2 --mem=1 --output=/dev/null "$work/job.sh")
for _ in $(seq 120); do
  [ -f "$work/starts" ] && [ "$(wc -l <"$work/starts")" = 3 ] && break
  sleep 0.5
done
for _ in $(seq 120); do
  scontrol show job "${job}_0" | grep -q JobState=COMPLETED && break
  sleep 0.5
done
last=$(awk '$1 == 2 {print $2}' "$work/starts")

states() { # of each task: how often it was queued again
  for task in 0 1 2; do
    echo -n "task $task: $(scontrol show job "${job}_$task" | grep -o 'JobState=[A-Z]*\|Restarts=[0-9]*' | tr '\n' ' ')"
    echo
  done
}
restarts() { scontrol show job "${job}_$1" | grep -o 'Restarts=[0-9]*' | cut -d= -f2; }

echo "version: $(sinfo --version)"
echo "guess: scontrol requeue \$SLURM_JOB_ID, run by task 2, queues task 2 alone again"
if [ "$last" != "$job" ]; then
  echo "CHANGED: task 2, the last of array $job, has SLURM_JOB_ID $last, which is its own"
  exit 1
fi
echo "seen: task 2, the last of array $job, has SLURM_JOB_ID $last, the array's own id"
scontrol requeue "${job}_2" # by array and task
sleep 3
echo "after scontrol requeue ARRAY_2:"
states
alone="$(restarts 0)$(restarts 1)$(restarts 2)"
scontrol requeue "$last" || true # by what task 2 has as its SLURM_JOB_ID; it refuses task 2, which is pending already
sleep 3
echo "after scontrol requeue \$SLURM_JOB_ID of task 2:"
states
all="$(restarts 0)$(restarts 1)$(restarts 2)"
scancel "$job"
if [ "$alone" = 001 ] && [ "${all:0:2}" = 11 ]; then
  echo "behaviour as described: the task's name requeues one task, its SLURM_JOB_ID all of them, completed ones too"
else
  echo "CHANGED: restarts of tasks 0, 1, 2 were $alone, then $all; wanted 001, then 1 for tasks 0 and 1"
  exit 1
fi
