"""A job array on a real Slurm: its controller and two nodes, all on this host, for the time of this module."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest
from helpers import ROOT, call_main, subset

from diffusion.runs import records

RUN = "vdigits_1trials_1keep_8samples"
COMMAND = ["eval_prob_adaptive.py", "--version", "digits", "--dataset", "digits", "--to_keep", "1", "--n_samples", "8"]
NEEDED = ["slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue"]
pytestmark = pytest.mark.slow

CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
KillWait=2
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def until(ready, seconds: float = 120):
    """What `ready()` gives when it first is something, looked at four times a second."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.25)
    return found


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """`slurm(program, *args) -> stdout`, of the running Slurm."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if not shutil.which(name, path=path)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"SKIPPED: a real Slurm needs root and, of apt, slurmctld slurmd slurm-client; no {missing}")
    root = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "log"):
        (root / name).mkdir()
    host = socket.gethostname().split(".")[0]
    port, node1, node2 = free_ports(3)
    (root / "slurm.conf").write_text(CONF.format(host=host, root=root, port=port, node1=node1, node2=node2))
    env = os.environ | {"PATH": path, "SLURM_CONF": str(root / "slurm.conf"), "PYTHON": sys.executable}
    env |= {"LOG_DIR": str(root / "data"), "OMP_NUM_THREADS": "1"}

    def call(*command) -> str:
        done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    try:
        call("slurmctld", "-f", root / "slurm.conf")
        for node in ("node1", "node2"):
            call("slurmd", "-f", root / "slurm.conf", "-N", node)
        until(lambda: "/2/0/2" in call("sinfo", "-h", "-o", "%F"))  # allocated, idle, other, all
        yield call
    finally:
        for pid in [*root.glob("slurmd-*.pid"), root / "slurmctld.pid"]:
            if pid.exists():
                os.kill(int(pid.read_text()), 15)


def test_an_array_one_task_killed_and_two_out_of_time(slurm, tmp_path):
    """They are queued again, the last task too, and go on; the run equals one worker's, bit for bit.

    The accuracy job waits for it.
    """
    script, data = ROOT / "scripts/slurm_array.sh", tmp_path / "data"
    folder = data / "digits_array" / RUN
    command = [*COMMAND, *subset(tmp_path, *range(60))]

    def submit(*args) -> str:
        passed = [f"--export=ALL,LOG_DIR={data}", "--cpus-per-task=1", "--mem=1"]
        return slurm("sbatch", "--parsable", *passed, *args).strip()

    job = submit("--array=5-9:2", f"--output={tmp_path}/%a.out", script, *command, "--extra", "array")
    last = submit(
        f"--dependency=afterany:{job}", f"--output={tmp_path}/last.out", script, "scripts/print_acc.py", folder
    )

    def state(task: str) -> str:
        found = re.search(r"JobState=(\w+).* Restarts=(\d+)", slurm("scontrol", "show", "job", task), re.S)
        return " ".join(found.groups())

    def begun(worker: int) -> bool:
        return folder.is_dir() and any(k % 3 == worker for k in records.finished(folder))

    ends = {  # each as soon as it has a record; USR1 is what --signal=B:USR1@90 sends before the limit
        5: ["--signal=KILL"],
        7: ["--batch", "--signal=USR1"],
        9: ["--batch", "--signal=USR1"],
    }
    waiting = list(ends)
    while waiting:
        task = until(lambda: next((task for task in waiting if begun((task - 5) // 2)), None))
        slurm("scancel", *ends[task], f"{job}_{task}")
        waiting.remove(task)
    assert f"JobId={job} " in slurm("scontrol", "show", "job", f"{job}_9")  # the last task has the id of the array
    until(lambda: state(f"{job}_5").startswith(("CANCELLED", "FAILED")))
    slurm("scontrol", "requeue", f"{job}_5")
    until(lambda: not slurm("squeue", "-h", "-j", f"{job},{last}").strip(), 600)

    assert {task: state(f"{job}_{task}") for task in ends} == dict.fromkeys(ends, "COMPLETED 1")
    for task in (7, 9):
        assert "ended by SIGUSR1" in (tmp_path / f"{task}.out").read_text()
    alone = call_main(tmp_path / "alone", *command)
    last_lines = (tmp_path / "last.out").read_text()
    assert last_lines[last_lines.index("images  ") :] == alone.out[alone.out.index("images  ") :]
    alone = tmp_path / "alone/digits" / RUN
    assert set(os.listdir(folder)) == set(os.listdir(alone))
    for path in alone.glob("[0-9]*"):  # the lines of .index come in another order
        assert (folder / path.name).read_bytes() == path.read_bytes()
    described = json.loads((folder / "run.json").read_text()), json.loads((alone / "run.json").read_text())
    for run in described:
        del run["command"]  # the array's has --extra
    assert described[0] == described[1]
