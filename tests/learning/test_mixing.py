"""Images and targets are mixed in the same shares."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Generator

from pneumoscope.learning.augmentation import mix
from pneumoscope.learning.config import MixingConfig

CLASSES, SIDE = 8, 16


@pytest.fixture
def batch():
    """Image k is of constant grey k / 8 and of class k, so that a mixture shows its shares."""
    grey = torch.arange(CLASSES) / CLASSES
    return grey.view(-1, 1, 1, 1).repeat(1, 1, SIDE, SIDE), F.one_hot(torch.arange(CLASSES), CLASSES).float()


def mixed(batch, seed, **config):
    return mix(*batch, MixingConfig(**config), Generator().manual_seed(seed))


def test_nothing_is_mixed_by_default(batch):
    films, targets = mixed(batch, 0)
    assert torch.equal(films, batch[0])
    assert torch.equal(targets, batch[1])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_follow_the_films(batch, kind):
    for seed in range(20):
        films, targets = mixed(batch, seed, **{f"{kind}_probability": 1.0})
        expected = targets @ (torch.arange(CLASSES) / CLASSES)
        torch.testing.assert_close(films.mean(dim=(1, 2, 3)), expected)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(CLASSES))
        assert torch.equal(batch[1], torch.eye(CLASSES)), "the given targets are left alone"


def test_mixup_blends_whole_films_up_to_its_share(batch):
    own = []
    for seed in range(50):
        films, targets = mixed(batch, seed, mixup_probability=1.0, mixup_share=0.3)
        assert (films == films[..., :1, :1]).all()
        own.append(float(targets.diag().min()))
    assert min(own) == pytest.approx(0.7, abs=0.03)
    assert max(own) > 0.97


def test_cutmix_pastes_one_square(batch):
    films, targets = mixed(batch, 3, cutmix_probability=1.0)
    foreign = films[:, 0] != batch[0][:, 0]
    film = int(foreign.sum(dim=(1, 2)).argmax())
    rows, columns = foreign[film].any(dim=1), foreign[film].any(dim=0)
    assert int(rows.sum()) == int(columns.sum()) > 0
    assert foreign[film].sum() == rows.sum() * columns.sum()
    assert targets[film, film] == pytest.approx(1 - float(foreign[film].float().mean()))


def test_a_batch_undergoes_one_of_them(batch):
    kinds = set()
    for seed in range(40):
        films, _ = mixed(batch, seed, mixup_probability=0.4, cutmix_probability=0.4)
        same = torch.equal(films, batch[0])
        blended = bool((films == films[..., :1, :1]).all())
        kinds.add("none" if same else "mixup" if blended else "cutmix")
    assert kinds == {"none", "mixup", "cutmix"}


def test_more_than_all_batches_cannot_be_mixed():
    with pytest.raises(ValidationError, match="more than 1"):
        MixingConfig(mixup_probability=0.6, cutmix_probability=0.6)
