"""Each change does what its name says, within its range, and alone."""

import pytest
import torch
from torch import Generator

from pneumoscope.learning.augmentation import augment, to_unit
from pneumoscope.learning.config import AugmentationConfig

SIDE = 32
NONE = {
    "rotation_degrees": 0, "translation": 0, "scale": 0, "aspect": 0, "shear_degrees": 0, "brightness": 0,
    "contrast": 0, "gamma": 0, "noise": 0, "soften_probability": 0, "erasing_probability": 0,
    "border_probability": 0,
}  # fmt: skip


def only(**changes):
    return AugmentationConfig(**{**NONE, **changes})


def seeded(seed=0):
    return Generator().manual_seed(seed)


@pytest.fixture
def films():
    """64 images: smooth in both directions, all different, without black or white."""
    row, column = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    phase = torch.linspace(0, 3, 64).view(64, 1, 1)
    return (60 + 80 * row + 60 * torch.sin(3 * column + phase) ** 2).to(torch.uint8)


def changed(films, seed=0, **changes):
    return augment(films, only(**changes), seeded(seed))


def test_to_unit():
    films = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    assert to_unit(films).tolist() == [[[[0, pytest.approx(0.2)], [pytest.approx(0.4), 1]]]]


def test_disabled_means_untouched(films):
    assert torch.equal(augment(films, AugmentationConfig(enabled=False), seeded()), to_unit(films))


def test_ranges_of_zero_leave_the_films_alone(films):
    torch.testing.assert_close(changed(films), to_unit(films), atol=1e-4, rtol=0)


def test_the_default_keeps_shape_and_range_and_does_not_touch_its_input(films):
    before = films.clone()
    batch = augment(films, AugmentationConfig(), seeded())
    assert batch.shape == (64, 1, SIDE, SIDE)
    assert batch.dtype == torch.float32
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert torch.equal(films, before)


def test_the_generator_is_the_only_source_of_chance(films):
    torch.manual_seed(1)
    first = augment(films, AugmentationConfig(), seeded(3))
    torch.manual_seed(2)
    assert torch.equal(first, augment(films, AugmentationConfig(), seeded(3)))
    assert not torch.equal(first, augment(films, AugmentationConfig(), seeded(4)))


def test_films_of_a_batch_are_changed_differently(films):
    same = films[:1].expand(8, SIDE, SIDE).contiguous()
    batch = augment(same, AugmentationConfig(), seeded())
    assert len({tuple(film.flatten().tolist()) for film in batch}) == 8


def test_mirroring_gives_the_film_or_its_mirror_image(films):
    batch, plain = changed(films, horizontal_flip=True), to_unit(films)
    kept = [torch.allclose(a, b, atol=1e-4) for a, b in zip(batch, plain, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(batch, plain, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def _centres(batch):
    """(row, column) of each image's centre of mass in pixels."""
    place = torch.arange(SIDE).float()
    mass = batch.sum(dim=(1, 2, 3))
    return torch.stack(
        [(batch.sum(dim=(1, 3)) * place).sum(1) / mass, (batch.sum(dim=(1, 2)) * place).sum(1) / mass], dim=1
    )


def dots(row, column, count=64):
    films = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    films[:, row - 1 : row + 2, column - 1 : column + 2] = 200
    return films


def test_translation_stays_within_its_share_of_the_side():
    start = torch.tensor([16.0, 16.0])
    moved = _centres(changed(dots(16, 16), translation=0.25)) - start
    assert moved.abs().max() <= 0.25 * SIDE + 0.01
    assert moved.abs().max(dim=0).values.min() > 0.2 * SIDE, "both axes use their range"
    assert moved.mean(dim=0).abs().max() < 3


def test_rotation_keeps_the_distance_from_the_middle():
    middle = (SIDE - 1) / 2
    start = torch.tensor([6.0 - middle, 0.5])
    moved = _centres(changed(dots(6, 16), rotation_degrees=40)) - middle
    torch.testing.assert_close(moved.norm(dim=1), start.norm().expand(64), atol=0.2, rtol=0)
    angles = torch.rad2deg(torch.atan2(moved[:, 1], -moved[:, 0]) - torch.atan2(start[1], -start[0]))
    assert angles.abs().max() <= 41
    assert angles.min() < -25
    assert angles.max() > 25


def test_zoom_moves_along_the_ray_from_the_middle():
    middle = (SIDE - 1) / 2
    factors = (_centres(changed(dots(6, 16), scale=0.3)) - middle)[:, 0] / (6 - middle)
    assert 0.69 < factors.min() < 0.8
    assert 1.2 < factors.max() < 1.31


def test_brightness_is_added(films):
    difference = changed(films, brightness=0.1) - to_unit(films)
    assert difference.abs().max() <= 0.1 + 1e-3
    assert difference.flatten(1).std(dim=1).max() < 2e-3, "all pixels of an image alike"
    assert difference.flatten(1).mean(dim=1).std() > 0.03


def test_contrast_keeps_the_mean(films):
    batch, plain = changed(films, contrast=0.3), to_unit(films)
    torch.testing.assert_close(batch.mean(dim=(1, 2, 3)), plain.mean(dim=(1, 2, 3)), atol=1e-3, rtol=0)
    ratio = batch.flatten(1).std(dim=1) / plain.flatten(1).std(dim=1)
    assert 0.69 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.31


def test_gamma_is_a_power(films):
    batch, plain = changed(films, gamma=0.35), to_unit(films)
    exponents = batch.log() / plain.log()
    assert exponents.flatten(1).std(dim=1).max() < 0.01, "one exponent an image"
    exponents = exponents.flatten(1).mean(dim=1).log()
    assert exponents.abs().max() <= 0.36
    assert exponents.min() < -0.2
    assert exponents.max() > 0.2


def test_noise_has_at_most_its_standard_deviation(films):
    added = (changed(films, noise=0.05) - to_unit(films)).flatten(1)
    deviations = added.std(dim=1)
    assert deviations.max() < 0.056
    assert deviations.max() > 0.035
    assert deviations.min() < 0.015
    assert added.mean(dim=1).abs().max() < 0.01
    assert torch.corrcoef(added[deviations > 0.01])[0, 1:].abs().max() < 0.5, "not the same noise on all"


def test_softening_takes_detail_from_some_films():
    checks = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)).remainder(2).mul(255).to(torch.uint8)
    films = checks.expand(64, SIDE, SIDE).contiguous()
    detail = changed(films, soften_probability=0.5, soften_scale=0.4).diff(dim=-1).abs().mean(dim=(1, 2, 3))
    soft = detail < 0.8
    assert 16 < soft.sum() < 48
    torch.testing.assert_close(detail[~soft], torch.ones(int((~soft).sum())), atol=1e-3, rtol=0)
    assert changed(films, soften_probability=1.0).diff(dim=-1).abs().mean(dim=(1, 2, 3)).median() < 0.6


def test_a_film_takes_the_histogram_of_another():
    dark = torch.arange(SIDE * SIDE).remainder(100).view(1, SIDE, SIDE)
    films = torch.cat([dark, dark + 150]).to(torch.uint8)
    seen = torch.stack([changed(films, seed, histogram_probability=1.0) for seed in range(40)])
    means = seen.mean(dim=(2, 3, 4)) * 255
    assert means[:, 0].min() == pytest.approx(49.2, abs=1), "its own image can be drawn"
    assert means[:, 0].max() > 170, "the bright image's histogram, nearly in full"
    assert means[:, 1].min() < 80
    order = seen[:, 0, 0].flatten(1)[:, films[0].flatten().argsort(stable=True)]
    assert (order.diff(dim=1) >= 0).all(), "grey levels keep their order"


def test_a_tone_curve_rises_from_black_to_white():
    ramp = torch.arange(256).repeat(64, 4).view(64, SIDE, SIDE).to(torch.uint8)
    batch = changed(ramp, tone_probability=0.5).flatten(1)[:, :256]
    straight = torch.linspace(0, 1, 256)
    bent = (batch - straight).abs().amax(dim=1)
    assert 16 < (bent > 0.01).sum() < 48
    assert bent.max() > 0.1
    assert (batch.diff(dim=1) >= 0).all()
    torch.testing.assert_close(batch[:, [0, -1]], straight[[0, -1]].expand(64, 2), atol=1e-5, rtol=0)


def test_some_films_get_sharper_and_some_softer():
    edge = torch.full((64, SIDE, SIDE), 100, dtype=torch.uint8)
    edge[:, :, SIDE // 2 :] = 150
    batch = changed(edge, sharpness_probability=0.75)
    step = batch[..., 16] - batch[..., 15]
    height = step.mean(dim=(1, 2)) * 255
    assert 4 < (height > 52).sum() < 44
    assert 4 < (height < 48).sum() < 44
    assert ((height - 50).abs() < 1e-3).sum() > 4
    torch.testing.assert_close(batch[..., :8], to_unit(edge)[..., :8], atol=1e-5, rtol=0)


def test_erasing_writes_one_grey_rectangle_of_at_most_its_area(films):
    batch, plain = changed(films, erasing_probability=0.5, erasing_area=0.2), to_unit(films)
    touched = ((batch - plain).abs() > 1e-3)[:, 0]
    erased = [index for index in range(64) if touched[index].any()]
    assert 16 < len(erased) < 48
    for index in erased:
        rows, columns = touched[index].any(dim=1).nonzero(), touched[index].any(dim=0).nonzero()
        box = batch[index, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.numel() <= 0.2 * SIDE**2 * 1.15 + 2, "rounding to whole pixels"
        assert box.max() - box.min() < 1e-6


def test_blanked_borders_reach_no_further_than_their_width(films):
    batch, plain = changed(films, border_probability=0.5, border_width=0.2), to_unit(films)
    touched = ((batch - plain).abs() > 1e-3)[:, 0]
    assert 16 < touched.flatten(1).any(dim=1).sum() < 48
    width = round(0.2 * SIDE)
    assert not touched[:, width:-width, width:-width].any()
    assert batch[:, 0][touched].max() == 0
    for edge in (touched[:, 0], touched[:, -1], touched[:, :, 0], touched[:, :, -1]):
        assert edge.any()


def test_a_chest_gets_other_surroundings():
    films = torch.zeros(64, SIDE, SIDE, dtype=torch.uint8) + (torch.arange(64) * 4).view(64, 1, 1).to(
        torch.uint8
    )
    batch, plain = changed(films, background_probability=0.5)[:, 0], to_unit(films)[:, 0]
    outside = batch[:, 0, 0] != plain[:, 0, 0]
    assert 16 < outside.sum() < 48
    torch.testing.assert_close(batch[:, 12:20, 12:20], plain[:, 12:20, 12:20], atol=2e-3, rtol=0)
    corners = torch.stack([batch[:, y, x] for y in (0, -1) for x in (0, -1)], dim=1)
    torch.testing.assert_close(corners, corners[:, :1].expand(64, 4), atol=1e-2, rtol=0)
    levels = (corners[outside, 0] * 255 / 4).remainder(1)
    from_films = (torch.minimum(levels, 1 - levels) < 0.02).float().mean()
    assert 0.4 < from_films < 0.95, "from other images, and plain grey in about three of ten"
