"""Heat map pictures and similar training images for ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pneumoscope.core.errors import ConfigError, PneumoscopeError

if TYPE_CHECKING:
    from pneumoscope.core.records import NearestCase, Radiograph
    from pneumoscope.inference.bundle import Bundle
    from pneumoscope.inference.examination import Examination

THUMBNAIL = 256
"""Least side in pixels of a training image's picture before it is made small."""


class Explainer:
    """Completes examinations, one after the other.

    Args:
        bundle: that answers.
        folder: of the pictures; None for none.
        look: style of the pictures, and whose evidence they show: a class, ``both`` or ``auto``.
        dataset: directory of the training images; None where they are not at hand.

    Raises:
        ConfigError: the bundle tells no such class, or keeps no training images to look up.
        DatasetError: there is no data set.
    """

    def __init__(
        self, bundle: Bundle, folder: Path | None, look: tuple[str, str], dataset: Path | None
    ) -> None:
        self.folder = folder
        self.style = str(look[0])
        self.classes = _classes(bundle, str(look[1]))
        self.dataset = None
        if dataset is not None:
            from pneumoscope.data.dataset import Dataset

            if "neighbours" not in bundle.document:
                raise ConfigError(
                    "the bundle keeps no codes of its training images",
                    where=bundle.id,
                    remedy="leave --dataset out",
                )
            self.dataset = Dataset.open(dataset)

    def __call__(
        self, path: Path, outcome: Examination | PneumoscopeError
    ) -> tuple[Examination | PneumoscopeError, str | None]:
        """The outcome with paths of alike images, and where its picture was written, if it was."""
        if isinstance(outcome, PneumoscopeError) or outcome.explanation is None:
            return outcome, None
        outcome = self._locate(outcome)
        return outcome, self._draw(path, outcome, self.folder) if self.folder else None

    def _locate(self, examination: Examination) -> Examination:
        from pneumoscope.inference.neighbours import locate_cases

        explanation = examination.explanation
        if self.dataset is None or explanation is None or explanation.nearest is None:
            return examination
        nearest = locate_cases(explanation.nearest, self.dataset)
        return replace(examination, explanation=replace(explanation, nearest=nearest))

    def _draw(self, path: Path, examination: Examination, folder: Path) -> str:
        """Write the picture, named after the image and its content, and return where."""
        from pneumoscope.imaging.radiograph import read_radiograph
        from pneumoscope.inference.heat_map_picture import Look, caption_of, write_heat_map

        assert examination.explanation is not None
        file = folder / f"{path.stem}-{examination.sha256[:8]}.png"
        look = Look(self.style, self.classes, _pictures(examination.explanation.nearest or ()))
        maps, caption = examination.explanation.heat_maps, caption_of(examination.to_dict())
        image: npt.NDArray[Any] | None = examination.image
        if image is None or image.shape != examination.explanation.heat_map.shape:
            image = read_radiograph(path).pixels  # a JPEG was decoded at reduced size
        write_heat_map(file, image, maps, caption, look)
        return str(file)


def _classes(bundle: Bundle, wanted: str) -> tuple[str, ...]:
    """The classes whose maps are drawn; none is the likelier one."""
    if wanted == "auto":
        return ()
    kinds = bundle.task.classes[1:]
    if wanted == "both":
        return kinds
    if wanted not in kinds:
        raise ConfigError(
            f"the bundle does not tell {wanted} pneumonia",
            where=bundle.id,
            expected=f"auto, both, or {' or '.join(kinds)}",
        )
    return (wanted,)


def _pictures(cases: Sequence[NearestCase]) -> list[tuple[NearestCase, Radiograph]]:
    """The training images whose files are there."""
    from pneumoscope.imaging.radiograph import read_radiograph

    return [(case, read_radiograph(case.path, min_size=THUMBNAIL)) for case in cases if case.path is not None]
