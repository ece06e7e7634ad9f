"""Coded concepts of a result for DICOM SR and FHIR.

SNOMED CT, DICOM, LOINC, and a private scheme for the rest.

The terms of DICOM context groups come from pydicom's copy of PS3.16; SNOMED CT identifiers beyond it are
those of the International Edition, LOINC's are from loinc.org.
"""

from __future__ import annotations

from types import MappingProxyType

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

OWN_SCHEME = "99PNEUMOSCOPE"
"""Designator of our own concepts; PS3.16 section 8 gives names that begin with 99 to anyone."""
OWN_SCHEME_NAME = "Pneumoscope result concepts"

# SNOMED CT International Edition, disorders (browser.ihtsdotools.org).
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
BACTERIAL_PNEUMONIA = Code("53084003", "SCT", "Bacterial pneumonia")
VIRAL_PNEUMONIA = Code("75570004", "SCT", "Viral pneumonia")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")  # PS3.16 CID 240

LUNG: Code = codes.SCT.Lung
PROBABILITY: Code = codes.DCM.Probability
THRESHOLD: Code = codes.DCM.ThresholdValue
OPERATING_POINT: Code = codes.DCM.CADOperatingPointDescription
COMMENT: Code = codes.DCM.Comment
ETIOLOGY = Code("134198009", "SCT", "Etiology")
UNITY: Code = codes.UCUM.NoUnits  # "1": the unit of a probability, PS3.16 CID 82

CHEST_VIEWS = Code("30745-4", "LN", "XR Chest Views")
"""What was examined; LOINC has a code for each number of views, this one leaves the number open."""
PRESENCES = MappingProxyType(
    {
        "POSITIVE": Code("52101004", "SCT", "Present"),
        "NEGATIVE": Code("272519000", "SCT", "Absent"),
        "ABSTAIN": UNDETERMINED,
    }
)
"""Decision to presence of the finding, PS3.16 CID 240."""

DECISIONS = MappingProxyType(
    {
        "POSITIVE": Code("10828004", "SCT", "Positive"),
        "NEGATIVE": Code("260385009", "SCT", "Negative"),
        "ABSTAIN": Code("82334004", "SCT", "Indeterminate"),
    }
)
"""Decision as an interpretation, PS3.16 CID 250 and 4220."""

ETIOLOGIES = MappingProxyType(
    {"BACTERIAL": BACTERIAL_PNEUMONIA, "VIRAL": VIRAL_PNEUMONIA, "UNCERTAIN": UNDETERMINED}
)

GATE = Code("gate", OWN_SCHEME, "Suitability of the image for this algorithm")
INTERVAL = Code("interval", OWN_SCHEME, "95 % interval of the probability")
VERDICTS = MappingProxyType(
    {
        "ANSWER": Code("suitable", OWN_SCHEME, "Suitable, answered"),
        "ANSWER WITH WARNING": Code("unusual", OWN_SCHEME, "Unusual, answered with a warning"),
        "REFUSE": Code("refused", OWN_SCHEME, "Not suitable, not answered"),
    }
)

FHIR_SYSTEMS = MappingProxyType(
    {
        "SCT": "http://snomed.info/sct",
        "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        "LN": "http://loinc.org",
        "UCUM": "http://unitsofmeasure.org",
        OWN_SCHEME: "urn:pneumoscope:result-concepts",
    }
)
"""Scheme designator to FHIR system (HL7 FHIR R4 section 4.3.0; PS3.16 table 8-1)."""
