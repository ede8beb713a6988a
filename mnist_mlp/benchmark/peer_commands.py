"""The peers as whole processes, on the images that `fit` trains and validates on."""

import subprocess
import tempfile
import textwrap
from pathlib import Path

import numpy as np

from mnist_mlp.benchmark.commands import command, seconds_per_update
from mnist_mlp.benchmark.setting import LR, Setting
from mnist_mlp.data import MNISTDataModule

PEERS = ("scikit_learn", "jax_scan", "keras_on_jax")


class PeerCommands:
    """Seconds of the commands of those peers that can run, and of an epoch of their training.

    They train on the very images that the `fit` command does, 55,000 of the embedded digits, and at the end score the
    same 5,000. They read them, normalised, from files, where `fit` makes them, writes its logs and checkpoints, and
    validates after each epoch. The seconds of an epoch are scaled to 60,000 images, as those of `fit` are.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.folder = tempfile.TemporaryDirectory()  # which lives as long as this object
        data = MNISTDataModule(source="digits")
        data.setup("fit")
        for suffix, (x, y) in {"": data.train_set, "_val": data.val_set}.items():
            np.save(Path(self.folder.name) / f"x{suffix}.npy", x.flatten(1).numpy())
            np.save(Path(self.folder.name) / f"y{suffix}.npy", y.numpy())
        self.peers = [peer for peer in PEERS if self.runs(peer)]

    def runs(self, peer: str) -> bool:
        """Whether a peer can run. Prints its reason if not."""
        try:
            self.run(peer)
        except subprocess.CalledProcessError as error:
            print(textwrap.shorten(f"no {peer}: {error.stderr.strip().splitlines()[-1]}", 80))
            return False
        return True

    def run(self, peer: str) -> tuple[float, str]:
        """Seconds and output of a peer's command."""
        setting, hidden = self.setting, " ".join(map(str, self.setting.hidden))
        options = f"--epochs {setting.epochs} --batch_size {setting.batch_size} --hidden {hidden} --lr {LR}"
        words = f"-m mnist_mlp.benchmark.peers.{peer} {options} --device {setting.device.type}".split()
        return command(*words, "--folder", self.folder.name)

    def __call__(self) -> dict[str, float]:
        """The seconds, by way."""
        seconds = {}
        for peer in self.peers:
            seconds[f"{peer} command"], output = self.run(peer)
            seconds[peer] = self.setting.updates * seconds_per_update(output)
        return seconds
