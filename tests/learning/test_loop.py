"""The loop: what it writes, when it stops, and that a stopped run ends as an unbroken one does."""

import csv
import ctypes
import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from pneumoscope.core.errors import ConfigError, UnreadableFileError
from pneumoscope.learning import loop
from pneumoscope.learning.batches import BatchOrder, FilmBatches, Films, InOrder, Loader
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.loop import Classifier, EpochReport, TrainingData, fit, keep_large_buffers
from pneumoscope.learning.networks import Network, NetworkConfig, create_network

from .phantoms import Killed, Listener, small_run

FILMS, BATCH, SIDE = 24, 8, 16
EVERY = [*EpochReport.__dataclass_fields__]


def films(seed):
    """Noise whose mean tells the class a little."""
    rng = np.random.default_rng(seed)
    targets = np.arange(FILMS) % 3
    pixels = rng.integers(0, 180, (FILMS, SIDE, SIDE)) + 20 * targets[:, None, None]
    return Films(pixels.astype(np.uint8), np.arange(FILMS), targets)


def loaders(config):
    """Training and validation batches."""
    order = BatchOrder(np.zeros(FILMS, np.int64), BATCH, config.seed)
    plain = AugmentationConfig(enabled=False)
    return (
        Loader(FilmBatches(films(0), config.augmentation), order),
        Loader(FilmBatches(films(1), plain), InOrder(FILMS)),
    )


def run(directory, listener=None, **changes):
    """Fit a small network as ``train`` does; the network."""
    config = small_run(**{"network": "mlp", "batch_size": BATCH, "dropout": 0.5, "epochs": 4, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = create_network(NetworkConfig(name=config.network, dropout=config.dropout))
        fit(network, config, TrainingData(*loaders(config)), directory, listener)
    return network


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
    update = loop.rising_average(0.5)
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
    assert loop._precision(small_run(network=network, precision=precision)) == expected


def test_mixed_precision_trains(tmp_path):
    module = run(tmp_path, precision="bf16", epochs=1)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert np.isfinite(float(history(tmp_path)[0]["validation_loss"]))


def test_nothing_is_said_on_the_terminal(capfd, tmp_path):
    run(tmp_path, epochs=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_several_devices_train_one_network(tmp_path):
    """Two processes on the CPU share each step; parameters that a stage freezes for an epoch take part."""
    unfreeze = [{"epoch": 0, "blocks": 0}, {"epoch": 1, "blocks": -1}]
    changes = {
        "accelerator": "cpu", "batch_size": 4, "epochs": 2, "stage": "staged", "unfreeze": unfreeze,
        "init": "somewhere",
    }  # fmt: skip
    network = run(tmp_path, devices=2, **changes)
    assert [int(row["epoch"]) for row in history(tmp_path)] == [0, 1]
    kept = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    alone = run(tmp_path / "alone", **changes)
    assert not same_weights(network, alone), "three steps of eight images, not six of four"


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"epoch": 1, "state_dict": {}}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(UnreadableFileError, match="another version"):
        run(tmp_path)


def test_deterministic_algorithms_are_used_for_the_training_alone(tmp_path):
    class Looking(Listener):
        def step(self, done, total, images_per_second):
            self.steps.append(torch.are_deterministic_algorithms_enabled())

    listeners = {kind: Looking() for kind in (True, False)}
    for kind, listener in listeners.items():
        run(tmp_path / str(kind), listener, deterministic=kind, epochs=1)
        assert not torch.are_deterministic_algorithms_enabled()
    assert [set(listener.steps) for listener in listeners.values()] == [{True}, {False}]


class Echo(Network):
    """Takes logits for images and gives them back."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images + self.shift, None

    def blocks(self):
        return [self.head]


class Given:
    """Batches that were made beforehand."""

    def __init__(self, *batches):
        self.batches = [(torch.tensor(logits), torch.tensor(targets)) for logits, targets in batches]

    def __len__(self):
        return len(self.batches)

    def epoch(self, number=0, rank=0, ranks=1):
        return iter(self.batches)


def test_the_loss_is_weighted_and_smoothed(tmp_path):
    weights = torch.tensor([2.0, 0.5, 1.0])
    batch = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [0, 1]
    data = TrainingData(Given(batch), Given(batch), weights)
    listener = Listener()
    fit(Echo(), small_run(label_smoothing=0.3, epochs=1), data, tmp_path, listener)
    log_p = torch.tensor(batch[0]).log_softmax(1)
    plain = [-log_p[0, 0] * 2.0, -log_p[1, 1] * 0.5]
    spread = [-(log_p[row] * weights).sum() / 3 for row in (0, 1)]
    expected = sum(0.7 * a + 0.3 * b for a, b in zip(plain, spread, strict=True)) / 2.5
    assert listener.epochs[0].train_loss == pytest.approx(float(expected))


def figures(logits, targets):
    """Validation figures, in batches of two."""
    parts = [(logits[start : start + 2], targets[start : start + 2]) for start in range(0, len(targets), 2)]
    fabric = Fabric(accelerator="cpu", devices=1)
    return loop.validation_figures(fabric, Classifier(Echo(), on_features=False), Given(*parts))


def test_validation_figures():
    logits, targets = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 1, 2, 2]
    found = figures(logits, targets)
    losses = [
        -torch.tensor(row).log_softmax(0)[target].item() for row, target in zip(logits, targets, strict=True)
    ]
    # Each class counts the same: the two viral images share a third.
    assert found["loss"] == pytest.approx((losses[0] + losses[1] + (losses[2] + losses[3]) / 2) / 3)
    # p(pneumonia): 0.21, 0.79, 0.67, 0.42 -> right, right, right, wrong; the normal image is the lowest.
    assert found["accuracy"] == 0.75
    assert found["auc"] == 1.0


def test_an_auc_needs_both_kinds_of_images():
    found = figures([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [1, 2])
    assert math.isnan(found["auc"])
    assert found["loss"] == pytest.approx(-torch.tensor([0.0, 1.0, 0.0]).log_softmax(0)[1].item())


def test_a_run_that_diverges_is_stopped(tmp_path):
    lost = Given(([[math.nan, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1]))
    good = Given(([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [0, 1]))
    for _ in range(2):
        fit(Echo(), small_run(epochs=5), TrainingData(good, lost), tmp_path)
        assert len(history(tmp_path)) == 1


def test_a_frozen_network_classifies_features():
    network = create_network(NetworkConfig(name="cnn-9")).eval()
    features = torch.rand(2, 256, 1, 1)
    torch.testing.assert_close(Classifier(network, on_features=True)(features), network.classify(features))


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "fine-tune-last", "last_blocks": 3},
        {"stage": "staged", "unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 2, "blocks": 3}]},
    ],
)
def test_more_blocks_than_there_are_are_refused_before_the_first_step(tmp_path, changes):
    listener = Listener()
    with pytest.raises(ConfigError, match="0 to 2 blocks"):
        run(tmp_path, listener, init="somewhere", **changes)
    assert listener.steps == []


def test_glibc_takes_both_settings(monkeypatch):
    asked = []
    libc = SimpleNamespace(
        gnu_get_libc_version=None, mallopt=lambda name, value: asked.append((name, value)) or 1
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert keep_large_buffers() is True
    # glibc's malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1.
    assert asked == [(-3, 2**31 - 1), (-1, 2**31 - 1)]


@pytest.mark.parametrize(
    ("platform", "libc"),
    [
        ("darwin", None),
        ("linux", SimpleNamespace()),
        ("linux", SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda name, value: 0)),
    ],
)
def test_where_buffers_cannot_be_kept_it_says_so(monkeypatch, platform, libc):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert keep_large_buffers() is False


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="no glibc here",
)
def test_the_real_library_takes_it():
    assert keep_large_buffers() is True
