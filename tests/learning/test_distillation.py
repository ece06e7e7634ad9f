"""Teachers answer only for images whose patient they did not see, and the student learns from the answers."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pneumoscope.core.files import read_json
from pneumoscope.evaluation.scoring import film_key, patient_key
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.learning.batches import FilmBatches
from pneumoscope.learning.config import DistillationConfig, TrainConfig
from pneumoscope.learning.distillation import cross_fitted_targets, soften_etiology
from pneumoscope.learning.training import train, training_set

from .phantoms import SIDE, Killed, Listener, phantom_dataset, small_run

TEACHING = DistillationConfig(folds=2, sizes=(24, SIDE), share=0.4)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return training_set(phantom_dataset(tmp_path_factory.mktemp("distillation")))


@pytest.fixture(scope="module")
def taught(films, tmp_path_factory):
    """Targets, and the folder of the teachers."""
    folder = tmp_path_factory.mktemp("teachers")
    config = small_run(epochs=1, distillation=TEACHING)
    return cross_fitted_targets(films, config, TEACHING, folder, train), folder


def test_every_film_gets_the_mean_of_its_teachers(films, taught):
    targets, folder = taught
    assert targets.shape == (len(films.training), 3)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{size}-part-{part}" for size in (24, SIDE) for part in (0, 1)
    ]
    assert not np.allclose(targets, targets[0]), "teachers tell images apart"


def test_no_teacher_saw_a_patient_that_it_answered_for(films, taught):
    _, folder = taught
    for size in TEACHING.sizes:
        seen = [
            load_bundle(folder / f"{size}-part-{part}" / "bundle").document["training"] for part in (0, 1)
        ]
        patients = [set(document["patients"]) for document in seen]
        assert not patients[0] & patients[1], "with two parts each teacher sees what the other answers for"
        assert patients[0] | patients[1] == {patient_key(sample.group_id) for sample in films.training}
        own = set().union(*(document["films"] for document in seen))
        assert not own & {film_key(sample.sha256) for sample in films.validation}


def test_finished_teachers_are_not_trained_again(films, taught):
    targets, folder = taught
    config = small_run(epochs=1, distillation=TEACHING)
    done = []

    def again(part, teacher, directory):
        done.append(read_json(directory / "run.json")["outcome"])
        return train(part, teacher, directory)

    repeated = cross_fitted_targets(films, config, TEACHING, folder, again)
    assert done == ["done"] * 4
    np.testing.assert_array_equal(repeated, targets)


def test_the_student_learns_label_and_answers(films, taught, monkeypatch, tmp_path):
    targets, _ = taught
    given = []
    monkeypatch.setattr("pneumoscope.learning.training.cross_fitted_targets", lambda *arguments: targets)
    monkeypatch.setattr(
        "pneumoscope.learning.training.FilmBatches",
        lambda *arguments: given.append(arguments) or FilmBatches(*arguments),
    )
    train(films, small_run(epochs=1, distillation=TEACHING), tmp_path / "student")
    soft = given[0][2]
    labels = torch.eye(3)[given[0][0].targets]
    torch.testing.assert_close(soft, soften_etiology(labels, torch.from_numpy(targets), 0.4))


def test_a_run_with_teachers_goes_on_where_it_was_killed(films, tmp_path):
    config = small_run(epochs=2, distillation=DistillationConfig(folds=2, sizes=(24,)))
    whole = train(films, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(films, config, tmp_path / "killed", Listener(stop_at_step=1))
    assert train(films, config, tmp_path / "killed").id == whole.id


def test_fixed_features_have_no_teachers():
    with pytest.raises(ValidationError, match="no distillation"):
        TrainConfig(stage="frozen", distillation=DistillationConfig())


def test_teachers_change_the_etiology_alone():
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    answers = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.1, 0.4], [0.0, 0.75, 0.25]])
    softened = soften_etiology(labels, answers, 0.5)
    torch.testing.assert_close(softened, torch.tensor([[1.0, 0, 0], [0, 0.6, 0.4], [0, 0.375, 0.625]]))


def test_two_classes_have_no_etiology():
    with pytest.raises(ValidationError, match="etiology"):
        TrainConfig(task="binary", distillation=DistillationConfig())
