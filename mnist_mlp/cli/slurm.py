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
    """The step of a SLURM job that started this process: how many tasks it has, and where."""

    tasks_per_node: str  # by srun, as SLURM writes it: 2(x3) for two on each of three nodes; empty without srun
    is_shell: bool  # where somebody types, as after `salloc` or `srun --pty bash`, and Lightning starts processes

    def check(self, command: str, devices: int = 1, nodes: int = 1) -> None:
        """Compare the tasks with the processes that a command, some words, wants on each of so many nodes.

        Raises:
            UserError: They differ. Says how to start the command; of several tasks only the first raises it.
        """
        wanted = f"{devices}(x{nodes})" if nodes > 1 else f"{devices}"
        fits = self.tasks_per_node == wanted if self.tasks_per_node else devices * nodes == 1
        if fits or (self.is_shell and nodes == 1):
            return
        if rank_zero_only.rank > 0:
            sys.exit(UserError.exit_code)
        srun = f"srun -N {nodes} -n {devices * nodes} --ntasks-per-node {devices}"
        raise UserError(
            f"tasks per node: {command} needs {wanted}, but srun has started {self.tasks_per_node or 'none'}: "
            f"use `{srun} python -m mnist_mlp {command.split()[0]} ...`"
        )


def current_step() -> Step | None:
    """The step that started this process, if one did and not torchrun. Lightning learns it too, from its variables.

    Without srun these make it wait for tasks that nobody starts. With srun some are of the whole job, or missing.
    """
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return None
    tasks_per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    is_single = os.environ.get("SLURM_NTASKS", "1") == "1"  # of the step, or of the job if there is none
    step = Step(tasks_per_node, is_shell=is_single and os.environ.get("SLURM_JOB_NAME") in INTERACTIVE)
    if step.is_shell or not tasks_per_node:
        os.environ["SLURM_JOB_NAME"] = INTERACTIVE[0]
    else:
        os.environ["SLURM_JOB_NAME"] = "mnist_mlp"
        os.environ["SLURM_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
        os.environ["SLURM_NTASKS_PER_NODE"] = re.split(r"\D", tasks_per_node)[0]
    return step
