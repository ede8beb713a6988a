"""Under SLURM the tasks that srun has started are the processes of a run: neither more nor fewer."""

import os
import re
import sys
from dataclasses import dataclass

from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from mnist_mlp.errors import UserError

INTERACTIVE = ("interactive", "bash")  # names of jobs in which Lightning looks away from SLURM, as it documents


@dataclass
class Step:
    """How a process of a job was started: as one of a step's tasks, by srun, or by itself."""

    by_srun: bool
    tasks: int  # of the step, or of the job if there is none
    tasks_per_node: str  # as SLURM writes it: 2(x3) for two on each of three nodes
    is_interactive: bool

    @property
    def is_shell(self) -> bool:
        """Whether somebody types here, as after `salloc` or `srun --pty bash`: Lightning starts any processes."""
        return self.is_interactive and self.tasks == 1

    def check(self, command: str, devices: int = 1, nodes: int = 1) -> None:
        """Compare the tasks with the processes that a command, some words, wants on each of so many nodes.

        Raises:
            UserError: They differ. Says how to start the command; of several tasks only the first raises it.
        """
        layout = f"{devices}(x{nodes})" if nodes > 1 else f"{devices}"
        if self.tasks_per_node == layout if self.by_srun else devices * nodes == 1:
            return
        if self.is_shell and nodes == 1:
            return
        if rank_zero_only.rank > 0:
            sys.exit(UserError.exit_code)
        given = f"srun has started {self.tasks_per_node}" if self.by_srun else "this process is not from srun"
        srun = f"srun -N {nodes} -n {devices * nodes} --ntasks-per-node {devices}"
        raise UserError(
            f"tasks per node: {command} needs {layout}, but {given}: "
            f"use `{srun} python -m mnist_mlp {command.split()[0]} ...`"
        )


def current_step() -> Step | None:
    """How this process was started, if in a job and not by torchrun. Lightning learns it too, from its variables.

    These are then the step's: to srun they are the job's, or missing, if it was not asked for tasks per node.
    """
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return None
    step = Step(
        by_srun="SLURM_STEP_NUM_TASKS" in os.environ,
        tasks=int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "1")),
        tasks_per_node=os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""),
        is_interactive=os.environ.get("SLURM_JOB_NAME") in INTERACTIVE,
    )
    if step.is_shell or not step.by_srun:
        os.environ["SLURM_JOB_NAME"] = INTERACTIVE[0]
    else:
        os.environ["SLURM_JOB_NAME"] = "mnist_mlp"
        os.environ["SLURM_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
        os.environ["SLURM_NTASKS_PER_NODE"] = re.split(r"\D", step.tasks_per_node)[0]
    return step
