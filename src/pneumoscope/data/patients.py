"""Patient keys from file names of the Guangzhou data set: one to detect leaks, a coarser one for splits.

The Guangzhou data set (Kermany et al., Cell 172(5), 2018, doi:10.1016/j.cell.2018.02.010) was published under
two naming schemes: ``NORMAL2-IM-0095-0001``, ``IM-0115-0001`` and ``person1_bacteria_1`` (Mendeley Data
versions 2, copied on Kaggle), and ``NORMAL-1049278-0001``, ``BACTERIA-1008087-0001`` and
``VIRUS-1980593-0001`` (version 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pneumoscope.core.records import Label

_NORMAL = re.compile(r"^(?P<key>(?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)*$", re.IGNORECASE)
_PERSON = re.compile(r"^(?P<person>person\d+)_(?P<etiology>bacteria|virus)_\d+(?:_\d+)*$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<etiology>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d+(?:-\d+)*$", re.IGNORECASE)
_ETIOLOGIES = {"bacteria": Label.BACTERIAL, "virus": Label.VIRAL}


@dataclass(frozen=True, slots=True)
class Patient:
    """The two keys of a patient.

    Attributes:
        full: prefix + number + etiology; two images that share it show the same patient.
        group: images that share it are never parted by a split of ours (``personN`` whatever the etiology).
        recognised: False when the name follows no known scheme and the image counts as its own patient.
    """

    full: str
    group: str
    recognised: bool = True


def guangzhou_patient(stem: str) -> Patient:
    """The patient of an image named in one of the Guangzhou schemes; otherwise the image is its own patient.

    >>> guangzhou_patient("NORMAL2-IM-0095-0001").full
    'NORMAL2-IM-0095'
    >>> guangzhou_patient("person1_bacteria_1")
    Patient(full='person1_bacteria', group='person1', recognised=True)
    """
    if match := _NORMAL.match(stem):
        return Patient(match["key"], match["key"])
    if match := _PERSON.match(stem):
        return Patient(f"{match['person']}_{match['etiology']}", match["person"])
    if match := _NUMBERED.match(stem):
        return Patient(f"{match['etiology']}-{match['number']}", f"patient-{match['number']}")
    return Patient(stem, stem, recognised=False)


def guangzhou_etiology(stem: str) -> Label | None:
    """Bacterial or viral by the file name; None when the name says neither."""
    match = _PERSON.match(stem) or _NUMBERED.match(stem)
    return _ETIOLOGIES.get(match["etiology"].lower()) if match else None
