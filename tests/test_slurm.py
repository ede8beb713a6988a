"""SLURM: the variables of its jobs, and the real thing, of two nodes that are this machine."""

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from conftest import ROOT, RUNS, SMALL, Error, Run, assert_same_parameters, checkpoint, curves_in, events, scalars
from lightning.pytorch.plugins.environments import SLURMEnvironment

from mnist_mlp.cli.slurm import current_step

JOB = {"JOB_ID": "7", "JOB_NAME": "wrap", "NODELIST": "localhost", "NNODES": "1", "PROCID": "0", "LOCALID": "0"}
JOB |= {"NODEID": "0"}
FIT = ("fit", *SMALL, "--trainer.max_steps", 2, "--trainer.accelerator", "cpu")


def tasks(per_node: str, number: int) -> dict[str, str]:
    """What srun sets for a task of a step."""
    return {"NTASKS": str(number), "STEP_TASKS_PER_NODE": per_node, "STEP_NODELIST": "localhost"}


def enter(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Makes this process part of a job."""
    for name, value in (JOB | variables).items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.mark.parametrize(
    ("variables", "options", "given", "remedy"),
    [
        ({"NTASKS": "2"}, ["--trainer.devices", 2], "started none:", "srun -N 1 -n 2 --ntasks-per-node 2 "),
        ({}, ["--trainer.devices", 2], "started none:", "srun -N 1 -n 2 --ntasks-per-node 2 "),
        ({"JOB_NAME": "interactive", "NTASKS": "2"}, ["--trainer.devices", 2], "started none:", "srun -N 1 -n 2 "),
        ({"JOB_NAME": "bash"}, ["--trainer.num_nodes", 2], "started none:", "srun -N 2 -n 2 --ntasks-per-node 1 "),
        (tasks("2", 2), [], "has started 2:", "srun -N 1 -n 1 --ntasks-per-node 1 "),
        (tasks("2", 2) | {"JOB_NAME": "bash"}, [], "has started 2:", "srun -N 1 -n 1 --ntasks-per-node 1 "),
        (tasks("1(x2)", 2), ["--trainer.devices", 2], "1(x2):", "srun -N 1 -n 2 --ntasks-per-node 2 "),
        (tasks("2", 2), ["--trainer.num_nodes", 2], "has started 2:", "srun -N 2 -n 2 --ntasks-per-node 1 "),
        (tasks("2,1", 3), ["--trainer.devices", 2], "2,1:", "srun -N 1 -n 2 --ntasks-per-node 2 "),
        (tasks("1", 1), ["--trainer.devices", 2], "has started 1:", "srun -N 1 -n 2 --ntasks-per-node 2 "),
    ],
)
def test_other_numbers_of_tasks(
    variables: dict[str, str],
    options: list[object],
    given: str,
    remedy: str,
    error: Error,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter(monkeypatch, variables)
    line = error(*FIT, *options)
    assert given in line
    assert f"`{remedy}" in line
    assert "python -m mnist_mlp fit ...`" in line


@pytest.mark.parametrize("command", ["find_lr", "compare_methods", "prepare_data", "export"])
def test_other_commands_are_one_process(command: str, error: Error, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, tasks("2", 2))
    options = ["--to", "digits.pt2"] if command == "export" else []
    assert f"tasks per node: {command} needs 1, but srun has started 2: use `srun" in error(command, *options)


@pytest.mark.parametrize(
    "variables",
    [
        {"NTASKS": "2"},
        {"NTASKS": "2", "JOB_NAME": "bash"},
        tasks("1", 1),
        tasks("1", 1) | {"NTASKS_PER_NODE": "2"},
        tasks("1", 1) | {"JOB_NAME": "bash"},
    ],
)
def test_one_process_trains(variables: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the job has room for."""
    enter(monkeypatch, variables)
    run(*FIT)
    assert checkpoint()["global_step"] == 2


def test_no_word_of_srun_on_a_login_node(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert run(*FIT)[1] == ""


def test_a_shell_in_a_job_is_like_any_other(run: Run, error: Error, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning starts the processes in it: it is not for their number that a command is refused."""
    run(*FIT)
    enter(monkeypatch, tasks("1", 1) | {"JOB_NAME": "bash"})
    predict = ("predict", "--ckpt_path", "last")
    assert "--trainer.devices is 2: predict runs in one process" in error(*predict, "--trainer.devices", 2)


def test_processes_meet_on_a_node_of_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, tasks("2", 2) | {"NODELIST": "node[1-9]", "STEP_NODELIST": "node5"})
    current_step()
    assert SLURMEnvironment().main_address == "node5"


def test_torchrun_starts_the_processes_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each node, where srun has started it."""
    enter(monkeypatch, tasks("1(x2)", 2))
    names = ("RANK", "GROUP_RANK", "ROLE_RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")
    for name, value in (dict.fromkeys(names, "0") | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    run(*FIT)
    assert checkpoint()["global_step"] == 2


CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmdParameters=config_overrides
CommunicationParameters=NoAddrCache,NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=1000 Gres=gpu:4
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=1000 Gres=gpu:4
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9
"""

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
Slurm = Callable[..., str]


def wait_until(reached: Callable[[], bool], seconds: float = 300) -> bool:
    """Asks again and again; says whether it came true."""
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.2)
    return reached()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a SLURM that runs, whose two nodes are this machine."""
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install slurm-wlm munge")
    base = tmp_path_factory.mktemp("slurm")
    with ExitStack() as sockets:
        servers = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in servers]
    host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
    conf = base / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=ports, user=user, base=base))
    (base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # loaded, though nothing uses it
    (base / "gres.conf").write_text(f"Name=gpu File={base}/gpu[0-3]\n")
    for number in range(4):
        (base / f"gpu{number}").touch()
    (base / "state").mkdir()
    (base / "key").touch(0o600)
    (base / "key").write_bytes(secrets.token_bytes(1024))
    munge = [f"--{name}={base / name}" for name in ("pid-file", "seed-file", "log-file")]
    munge += [f"--key-file={base}/key", f"--socket={base}/munge.socket"]
    commands = [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", name] for name in ("node1", "node2")]
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": path}

    def asked(*words: str) -> str:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout

    daemons = []
    try:
        for words in commands:
            with (base / f"{words[0]}.out").open("a") as out:
                daemons.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
            if words[0] == "munged":
                wait_until((base / "munge.socket").exists, 10)
        if not wait_until(lambda: asked("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * 2, 30):
            last = [line for name in PROGRAMS[:3] for line in (base / f"{name}.out").read_text().splitlines()[-1:]]
            pytest.skip(f"SLURM does not start here: {last}")
        yield conf
        asked("scancel", "--user", user)
        wait_until(lambda: not asked("squeue", "-h"))
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


@pytest.fixture
def slurm(nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Runs a command of SLURM's in a folder with the project's `configs`; gives what it prints."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("SLURM_CONF", str(nodes))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # where no network knows the nodes' names
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)

    def command(*words: object) -> str:
        line = [str(word) for word in words]
        result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.strip()

    return command


def state(slurm: Slurm, job: str) -> dict[str, str]:
    """What SLURM knows of a job, by its own words."""
    return dict(re.findall(r"(\w+)=(\S+)", slurm("scontrol", "show", "job", "-o", job)))


def ended(slurm: Slurm, job: str) -> dict[str, str]:
    """The same, of a job that has ended and is not queued again."""
    assert wait_until(lambda: state(slurm, job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED")), state(slurm, job)
    return state(slurm, job)


SBATCH = ("sbatch", "--parsable", "--cpus-per-task=1", "--gpus-per-node=0")
DIGITS = (*SMALL, "--trainer.accelerator", "cpu", "--pictures", "false")


@pytest.mark.slurm
def test_tasks_are_one_process_with_the_whole_batch(slurm: Slurm, run: Run, tmp_path: Path) -> None:
    """On two nodes by the script, and on one after a plain `salloc`, whose name Lightning passes over."""
    options = [*DIGITS, "--model.loss", "mse", "--model.lr", 0.1, "--model.schedule", "constant"]
    options += ["--trainer.max_steps", 20]
    run("fit", *options)
    options += ["--data.batch_size", 500]
    job = slurm(*SBATCH, "--nodes=2", "--output=out", "configs/cluster.sbatch", *options)
    fit = [sys.executable, "-m", "mnist_mlp", "fit", *options, "--trainer.devices", 2]
    slurm("salloc", "-Q", "-n2", "srun", *fit)
    assert ended(slurm, job)["JobState"] == "COMPLETED", (tmp_path / "out").read_text()
    one = checkpoint()["state_dict"]
    for logs in (RUNS, tmp_path / f"job_{job}" / RUNS):
        newest = max(logs.iterdir())
        assert newest.name == ("version_1" if logs == RUNS else "version_0")  # one run, not one of each task
        two = torch.load(newest / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name, parameter in one.items():
            assert (two[name] - parameter).norm() <= 1e-5 * parameter.norm()


@pytest.mark.slurm
def test_an_array_is_preempted_and_queued_again_run_by_run(slurm: Slurm, run: Run, tmp_path: Path) -> None:
    """Its last run has the array's own number; it ends as if it had never stopped, and the other never stops."""
    options = [*DIGITS, "--trainer.max_epochs", 10_000, "--model.schedule", "constant"]
    limits, free = tmp_path / "limits.yaml", tmp_path / "free"
    limits.write_text("trainer:\n  max_steps: -1\n")
    script = ("--array=0-1", "--exclusive", "--output=out_%a", "configs/cluster.sbatch")
    array = slurm(*SBATCH, *script, *options, "--config", limits)
    outputs = [tmp_path / f"out_{seed}" for seed in (0, 1)]
    assert wait_until(lambda: all(out.exists() and "epoch 1 of" in out.read_text() for out in outputs))
    node = state(slurm, f"{array}_1")["NodeList"]
    urgent = ["-p", "urgent", "-w", node, "--output=urgent", "--wrap", f"until [ -e {free} ]; do sleep 0.1; done"]
    slurm(*SBATCH, "--exclusive", *urgent)
    assert wait_until(lambda: state(slurm, f"{array}_1")["Restarts"] == "1"), outputs[1].read_text()
    folder = tmp_path / f"job_{array}_1" / RUNS / "version_0"
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] + 30
    limits.write_text(f"trainer:\n  max_steps: {steps}\n")
    free.touch()
    assert ended(slurm, f"{array}_1")["JobState"] == "COMPLETED", outputs[1].read_text()
    other = state(slurm, f"{array}_0")
    assert (other["JobState"], other["Restarts"]) == ("RUNNING", "0")
    slurm("scancel", f"{array}_0")

    unbroken = ["--config", "configs/cluster.yaml", *options, "--trainer.max_steps", steps, "--seed_everything", 1]
    run("fit", *unbroken)
    resumed = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert_same_parameters(checkpoint()["state_dict"], resumed["state_dict"])
    assert events(curves_in(folder)) == scalars()


@pytest.mark.slurm
def test_refusals_end_at_once(slurm: Slurm, tmp_path: Path) -> None:
    """Without srun, and with a task too many; a job that is refused is not queued again."""
    fit = f"{sys.executable} -m mnist_mlp fit {' '.join(map(str, DIGITS))} --trainer.devices 2"
    jobs = [
        slurm(*SBATCH, "-n2", "--output=out_0", "--wrap", fit),
        slurm(
            *SBATCH, "--ntasks-per-node=2", "--output=out_1", "configs/cluster.sbatch", *DIGITS, "--trainer.devices", 1
        ),
    ]
    for number, (job, remedy) in enumerate(zip(jobs, ("srun -N 1 -n 2", "srun -N 1 -n 1"), strict=True)):
        end, output = ended(slurm, job), (tmp_path / f"out_{number}").read_text()
        assert (end["ExitCode"], end["Restarts"]) == ("2:0", "0")
        [line] = [line for line in output.splitlines() if line.startswith("error:")]
        assert f"`{remedy}" in line
        assert "Traceback" not in output
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "out_0", "out_1"}
