"""The loop: what it writes, when it stops, and that a stopped run ends as an unbroken one does."""

import csv
import os
import signal
import warnings

import numpy as np
import pytest
import torch

from pneumoscope.learning import fitting
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.films import BatchOrder, FilmBatches, Films, InOrder, film_loader
from pneumoscope.learning.fitting import EpochReport, fit
from pneumoscope.learning.module import FilmClassifier, StepPlan
from pneumoscope.learning.networks import NetworkConfig, create_network

from .phantoms import Killed, Listener, small_run

FILMS, BATCH, SIDE = 24, 8, 16
EVERY = [*EpochReport.__dataclass_fields__]


def films(seed):
    """Noise whose mean tells the class a little."""
    rng = np.random.default_rng(seed)
    targets = np.arange(FILMS) % 3
    pixels = rng.integers(0, 180, (FILMS, SIDE, SIDE)) + 20 * targets[:, None, None]
    return Films(pixels.astype(np.uint8), np.arange(FILMS), targets)


def run(directory, listener=None, **changes):
    """Fit a small network as ``train`` does; the module."""
    config = small_run(**{"network": "mlp", "batch_size": BATCH, "dropout": 0.5, "epochs": 4, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = create_network(NetworkConfig(name=config.network, dropout=config.dropout))
        order = BatchOrder(np.zeros(FILMS, np.int64), BATCH, config.seed)
        module = FilmClassifier(network, config, None, StepPlan(len(order), config.epochs))
        loaders = (
            film_loader(FilmBatches(films(0), config.augmentation), order),
            film_loader(FilmBatches(films(1), AugmentationConfig(enabled=False)), InOrder(FILMS)),
        )
        fit(module, loaders, directory, listener)
    return module


def history(directory):
    with open(directory / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def same_weights(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    listener = Listener()
    return directory, run(directory, listener), listener


def test_a_run_leaves_history_checkpoints_and_a_tensorboard_log(unbroken):
    directory, _, listener = unbroken
    rows = history(directory)
    assert list(rows[0]) == EVERY
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list((directory / "tensorboard").glob("events.out.tfevents.*"))
    assert [report.validation_loss for report in listener.epochs] == [
        float(r["validation_loss"]) for r in rows
    ]
    assert listener.steps == [(step, 12) for step in range(1, 13)]
    assert all(0 <= float(row["waiting_share"]) < 1 for row in rows)
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_the_best_weights_are_left_in_the_module(unbroken):
    directory, module, _ = unbroken
    best = torch.load(directory / "checkpoints" / "best.ckpt", weights_only=True)
    losses = [float(row["validation_loss"]) for row in history(directory)]
    assert best["epoch"] == losses.index(min(losses))
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in module.state_dict().items())
    assert not module.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken, tmp_path):
    assert same_weights(run(tmp_path / "again"), unbroken[1])
    assert not same_weights(run(tmp_path / "other", seed=6), unbroken[1])


@pytest.mark.parametrize(
    "moment", [{"stop_at_step": 2}, {"stop_at_step": 8}, {"stop_after_epoch": 1}, {"stop_after_epoch": 3}]
)
def test_a_stopped_run_ends_as_an_unbroken_one_does(unbroken, tmp_path, moment):
    with pytest.raises(Killed):
        run(tmp_path, Listener(**moment))
    listener = Listener()
    module = run(tmp_path, listener)
    assert same_weights(module, unbroken[1])
    timeless = [name for name in EVERY if name not in ("images_per_second", "waiting_share")]
    assert [[row[name] for name in timeless] for row in history(tmp_path)] == [
        [row[name] for name in timeless] for row in history(unbroken[0])
    ]
    assert listener.steps[-1] == (12, 12)


def test_an_interruption_reaches_the_caller_and_the_run_goes_on(unbroken, tmp_path):
    class Interrupting(Listener):
        def step(self, done, total, images_per_second):
            super().step(done, total, images_per_second)
            if done == 8:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupting())
    assert signal.getsignal(signal.SIGINT) is before, "the next interruption counts too"
    assert same_weights(run(tmp_path), unbroken[1])


def test_a_run_that_was_fitted_is_not_trained_again(unbroken, tmp_path):
    first = run(tmp_path)
    listener = Listener()
    again = run(tmp_path, listener)
    assert listener.steps == []
    assert same_weights(first, again)
    assert len(history(tmp_path)) == 4


def test_a_run_stops_when_the_validation_loss_stops_falling(tmp_path):
    # A rate far too high: the loss is best early and never again.
    changes = {"learning_rate": 1.0, "patience": 2, "epochs": 30, "ema_decay": None, "schedule": "constant"}
    run(tmp_path, **changes)
    losses = [float(row["validation_loss"]) for row in history(tmp_path)]
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 30
    listener = Listener()
    run(tmp_path, listener, **changes)
    assert listener.steps == [], "patience ran out before; another epoch would change the run"
    assert len(history(tmp_path)) == len(losses)


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    """Killed while a checkpoint is written: what was there stays, and no half file bears its name."""
    with pytest.raises(Killed):
        run(tmp_path, Listener(stop_at_step=5))
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    save = torch.save

    def half(content, file, *args, **kwargs):
        save(content, file, *args, **kwargs)
        assert str(file).startswith(str(last.parent)), "written beside its place: renaming is atomic there"
        with open(file, "r+b") as stream:
            stream.truncate(100)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", half)
        with pytest.raises(Killed):
            run(tmp_path)
    assert last.read_bytes() == before
    run(tmp_path)
    assert len(history(tmp_path)) == 4


def test_without_an_average_the_last_step_counts(tmp_path):
    plain = run(tmp_path / "plain", ema_decay=None)
    averaged = run(tmp_path / "averaged", ema_decay=0.9)
    assert not same_weights(plain, averaged)
    assert same_weights(plain, run(tmp_path / "none", ema_decay=0.0)), "0 is how TOML says none"


def test_the_average_rises_up_to_its_decay():
    update = fitting._rising_average(0.5)
    mean, count = torch.tensor([1.0]), torch.tensor([4])
    update([mean, count], [torch.tensor([2.0]), torch.tensor([9])], 0)
    # (1 + 0) / (10 + 0) = 0.1 of the old value is kept.
    assert mean.item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    assert count.item() == 9, "counters are copied"
    update([mean], [torch.tensor([0.0])], 1000)
    assert mean.item() == pytest.approx(0.5 * 1.9)


def test_the_last_weights_are_kept_where_asked_for(unbroken, tmp_path):
    """The same run, whose best epoch was not its last, ends with other weights."""
    directory, best, _ = unbroken
    losses = [float(row["validation_loss"]) for row in history(directory)]
    module = run(tmp_path, checkpoint="last")
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert same_weights(module, best) == (losses.index(min(losses)) == len(losses) - 1)


@pytest.mark.parametrize(
    ("network", "precision", "gpu", "expected"),
    [
        ("mobilenet-v2", "auto", False, "32-true"),
        ("resnet-50", "auto", False, "bf16-mixed"),
        ("mobilenet-v2", "auto", True, "bf16-mixed"),
        ("resnet-50", "32", True, "32-true"),
        ("cnn-9", "bf16", False, "bf16-mixed"),
    ],
)
def test_precision(monkeypatch, network, precision, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert fitting._precision(small_run(network=network, precision=precision)) == expected


def test_mixed_precision_trains(tmp_path):
    module = run(tmp_path, precision="bf16", epochs=1)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert np.isfinite(float(history(tmp_path)[0]["validation_loss"]))


def test_known_hints_of_the_trainer_stay_off_the_terminal_and_others_do_not(capfd, tmp_path):
    run(tmp_path, epochs=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    with pytest.warns(UserWarning, match="something else"), fitting._quiet_lightning():
        warnings.warn("something else", stacklevel=1)
