"""Results to a FHIR server: one transaction a film, POSTed to its base address (FHIR R4 section 3.1.0.11).

In: a destination of the configuration, results. Out: nothing, or an error. Each resource is made only where
the server has none with our identifier, so a transaction that is sent again changes nothing.
"""

from __future__ import annotations

from pneumoscope_clinic.dicom.http_session import TIMEOUT_S, open_session, reported
from pneumoscope_clinic.results.fhir import StudyResults, fhir_bundle
from pneumoscope_clinic.settings import Destination

_JSON = "application/fhir+json"


class FhirClient:
    """Sends to a destination of kind ``fhir``.

    Args:
        destination: where to; ``url`` is the server's base address.
        identities: name patient and study.
    """

    def __init__(self, destination: Destination, *, identities: bool) -> None:
        assert destination.url is not None
        self._name = destination.name
        self._url = destination.url.rstrip("/")
        self._identities = identities
        self._session = open_session(destination.user, destination.password_file, destination.token_file)

    def deliver(self, study: StudyResults) -> int:
        """POST the results; how many resources there were.

        Raises:
            DeliveryError: the server cannot be reached, or refuses them.
        """
        bundle = fhir_bundle(study, identities=self._identities)
        headers = {"Content-Type": _JSON, "Accept": _JSON}
        with reported(self._name):
            answer = self._session.post(self._url, json=bundle, headers=headers, timeout=TIMEOUT_S)
            answer.raise_for_status()
        return len(bundle["entry"])

    def check(self) -> None:
        """Ask for the capability statement (FHIR R4 section 3.1.0.9).

        Raises:
            DeliveryError: the server cannot be reached, or refuses.
        """
        with reported(self._name):
            answer = self._session.get(f"{self._url}/metadata", headers={"Accept": _JSON}, timeout=TIMEOUT_S)
            answer.raise_for_status()
