"""The result of one film, as every view of it needs it: answer, picture, heat maps and the film's own header.

In: what the worker stored about a film. Out: one frozen record that the structured report, the pictures, the
FHIR bundle and the one-page report are made from; nothing else reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import freeze

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class FilmResult:
    """What is known of one examined film.

    Attributes:
        film_id: our random id (32 hexadecimal digits).
        record: :func:`pneumoscope.inference.answer.record` of the examination, and beside it ``bundle_card``
            (empty where the bundle is no longer known), ``limitations`` and ``versions``.
        picture: (h, w) uint8, the film, bright = dense, on its original pixel grid or smaller.
        original_size: rows and columns of the film as stored.
        heat_maps: by pneumonia class, each (h, w) uint8, 255 = 1.0; any size, it covers the whole film. Empty
            for a film that was not explained.
        examined_at: with a time zone.
        header: the source's DICOM header with real identities and without Pixel Data; None for JPEG and PNG.
    """

    film_id: str
    record: Mapping[str, Any]
    picture: Grey
    original_size: tuple[int, int]
    heat_maps: Mapping[str, Grey]
    examined_at: datetime
    header: Dataset | None = None

    def __post_init__(self) -> None:
        if self.examined_at.tzinfo is None:
            raise ValueError("examined_at has no time zone")
        for name, array in {"picture": self.picture, **self.heat_maps}.items():
            if array.ndim != 2 or array.dtype != np.uint8:
                raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions, not uint8 of 2")
            freeze(array)

    @property
    def bundle_id(self) -> str:
        """Which bundle answered, ``name@hash``."""
        return str(self.record["bundle"])

    @property
    def refused(self) -> bool:
        """The gate kept the film from being answered: there is no probability."""
        return self.record["probability"] is None

    @property
    def answered(self) -> bool:
        """POSITIVE or NEGATIVE was said; a film that abstains has a probability and no answer."""
        return self.record["decision"] in ("POSITIVE", "NEGATIVE")

    @property
    def target(self) -> str | None:
        """The pneumonia class whose heat map comes first; None for a film that was not explained."""
        explanation = self.record["explanation"]
        return None if explanation is None else str(explanation["target"])

    @property
    def heat_map(self) -> Grey | None:
        """The map of :attr:`target`; None where there is none."""
        return None if self.target is None else self.heat_maps.get(self.target)
