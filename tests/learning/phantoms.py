"""Small data sets of phantoms and small runs on them."""

from pathlib import Path

from pneumoscope.data.dataset import Dataset
from pneumoscope.data.importers import ImportOptions, import_dataset
from pneumoscope.data.phantoms import WriteConfig, write_phantoms
from pneumoscope.learning.config import TrainConfig

SIDE = 32


def phantom_dataset(folder: Path, **config) -> Dataset:
    """Draw phantoms into ``folder``/films (CSV layout) and import them."""
    values = {"count": 60, "size": SIDE, "layout": "csv", "seed": 1, **config}
    films = write_phantoms(folder / "films", WriteConfig(**values))
    return import_dataset(films, folder / "dataset", ImportOptions(workers=1))


def small_run(**changes) -> TrainConfig:
    """A run of a second or two; ``changes`` replace keys."""
    values = {
        "network": "cnn-9", "init": "random", "size": SIDE, "epochs": 3, "batch_size": 16, "threads": 1,
        "ema_decay": 0.9, "seed": 5,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


class Listener:
    """Remembers what it is told, and ends the run like a kill would, where asked to."""

    def __init__(self, *, stop_at_step=None, stop_after_epoch=None):
        self.stages, self.steps, self.epochs = [], [], []
        self.stop_at_step, self.stop_after_epoch = stop_at_step, stop_after_epoch

    def stage(self, message):
        self.stages.append(message)

    def step(self, done, total, images_per_second):
        self.steps.append((done, total))
        if done == self.stop_at_step:
            raise Killed

    def epoch(self, report, epochs):
        self.epochs.append(report)
        if report.epoch == self.stop_after_epoch:
            raise Killed


class Killed(BaseException):
    """Nothing in the project catches it."""
