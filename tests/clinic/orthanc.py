"""A PACS to test against: Orthanc with its DICOMweb plug-in, on loopback, in a temporary folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import requests

PLUGINS = Path("/usr/share/orthanc/plugins")
PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")

needs_orthanc = pytest.mark.skipif(
    PROGRAM is None or not (PLUGINS / "libOrthancDicomWeb.so").exists(),
    reason="Orthanc with its DICOMweb plug-in is not installed (scripts/system_packages.sh tests)",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def dcmtk(name: str) -> str | None:
    """DCMTK's program; pynetdicom installs some of the same name into the environment."""
    beside = shutil.which("dcmdump")
    return None if beside is None else shutil.which(name, path=str(Path(beside).parent))


needs_dcmtk = pytest.mark.skipif(
    dcmtk("storescu") is None, reason="DCMTK is not installed (scripts/system_packages.sh tests)"
)


class Orthanc:
    """An Orthanc that can be stopped and started again where it was; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http_port, self.dicom_port = free_port(), free_port()
        self.ae_title = "ORTHANC"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self._configuration()), encoding="utf-8")
        assert PROGRAM is not None
        with open(self.folder / "orthanc.log", "ab") as log:
            self._process = subprocess.Popen([PROGRAM, str(file)], stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if requests.get(f"{self.dicomweb}/studies", timeout=2).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError((self.folder / "orthanc.log").read_text(encoding="utf-8", errors="replace"))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def get(self, path: str, **parameters: Any) -> Any:
        answer = requests.get(f"{self.url}{path}", params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def upload(self, content: bytes) -> str:
        """Store an instance; its Orthanc id."""
        answer = requests.post(f"{self.url}/instances", data=content, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["ID"])

    def file(self, orthanc_id: str) -> bytes:
        return requests.get(f"{self.url}/instances/{orthanc_id}/file", timeout=10).content

    def tags(self) -> list[dict[str, Any]]:
        """Simplified tags of every instance, with its Orthanc id as ``ID``."""
        ids = self.get("/instances")
        return [{**self.get(f"/instances/{found}/simplified-tags"), "ID": found} for found in ids]

    def by_modality(self, modality: str) -> list[dict[str, Any]]:
        return [row for row in self.tags() if row["Modality"] == modality]

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "OverwriteInstances": False,
            "HttpServerEnabled": True,
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
