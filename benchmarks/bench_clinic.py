"""The clinic under load: REST and C-STORE, latency by number of clients, and memory over thousands of images.

In: images of original size (PNEUMOSCOPE_DATA; phantoms without it). Out: tables.

- ``examine()``: one image after the other in this process, bundle open, heat maps made: the bare call.
- REST: ``pneumoscope serve`` with its defaults on loopback, 1, 4 and 16 clients that send one image each and
wait
  for the answer; the ratio compares the whole request of one client with the bare call, taken in turns.
- C-STORE: ``pneumoscope pacs`` with its defaults, one association; received means on disk and in the queue,
  examined means that the result is stored.
- ``--films 10000``: a long run through REST with 4 clients, memory of all processes every ten seconds, and at
the
  end a count of images, results and failures in the database.

    python -m benchmarks.bench_clinic                  # the tables
    python -m benchmarks.bench_clinic --films 10000    # the long run
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import httpx

from benchmarks.material import find_films
from benchmarks.measuring import Table, machine

__all__ = ["compare", "endure"]

CLIENTS = (1, 4, 16)
RATIO_GOAL = 1.3
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
_SECRET = re.compile(r"pns_\S+")
_PORT = re.compile(r":(\d+)")
_START_S, _END_S = 60, 600
_SAMPLE_S = 10


def compare(workspace: Path, films: int = 120) -> list[Table]:
    """REST and C-STORE on a fresh installation each."""
    files = [Path(file) for file in find_films("original", min(films, 136), workspace).files]
    return [_rest(workspace, files), _c_store(workspace, files)]


def endure(workspace: Path, films: int, bundle: str = "reference", clients: int = 4) -> Table:
    """``films`` images through REST; memory, losses and doubles."""
    files = [Path(file) for file in find_films("original", 136, workspace).files]
    memory: list[tuple[float, int, float]] = []
    done = 0
    with _server(workspace / "long", ["serve", "--port", "0", "--bundle", bundle]) as (process, said):
        client, headers = _client(said)
        over = threading.Event()

        def sample() -> None:
            started = time.monotonic()
            while not over.wait(_SAMPLE_S):
                memory.append((time.monotonic() - started, done, _tree_mb(process.pid)))

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        started = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            for seconds in pool.map(lambda f: _request(client, headers, f), islice(cycle(files), films)):
                done += 1
                if done % 500 == 0:
                    print(f"{done} images, {_tree_mb(process.pid):.0f} MB", file=sys.stderr, flush=True)
                del seconds
        minutes = (time.monotonic() - started) / 60
        over.set()
        counted = _metrics(client, headers)
    parts = [[mb for _, count, mb in memory if low <= count < high] for low, high in _tenths(films)]
    rows = [[f"{low} to {high}", f"{max(part):.0f} MB", f"{mean(part):.0f} MB"]
            for (low, high), part in zip(_tenths(films), parts, strict=True) if part]  # fmt: skip
    remark = (
        f"{films} images in {minutes:.1f} minutes ({films / minutes:.0f} a minute); in the database: "
        + ", ".join(f"{name} {count:g}" for name, count in counted.items())
    )
    return Table(
        f"Memory of all processes over a long run, bundle {bundle}", ("films", "most", "mean"), rows, [remark]
    )


def _rest(workspace: Path, files: Sequence[Path]) -> Table:
    bare = _bare()
    with _server(workspace / "rest", ["serve", "--port", "0"]) as (_, said):
        client, headers = _client(said)
        for file in files[:8]:
            _request(client, headers, file)
            bare(file)
        pairs = [(bare(file), _request(client, headers, file)) for file in files]
        rows = [_row("`examine()`, bare", [seconds for seconds, _ in pairs], None)]
        rows.append(_row("REST, 1 client, in turn with it", [seconds for _, seconds in pairs], None))
        for clients in CLIENTS:
            started = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                seconds = list(pool.map(lambda file: _request(client, headers, file), [*files, *files]))
            rows.append(
                _row(f"REST, {clients} clients", seconds, 60 * len(seconds) / (time.monotonic() - started))
            )
    ratio = median(whole / alone for alone, whole in pairs)
    remark = (
        f"Whole request to bare call, median of {len(pairs)} pairs: {ratio:.2f} (goal: at most {RATIO_GOAL})."
    )
    return Table("REST", ("side", "films/min", "p50", "p95", "p99"), rows, [remark])


def _c_store(workspace: Path, files: Sequence[Path]) -> Table:
    from pynetdicom import AE
    from pynetdicom.sop_class import ComputedRadiographyImageStorage

    datasets = [_as_dicom(file) for file in files]
    with _server(workspace / "pacs", ["pacs", "--port", "0"]) as (_, said):
        entity = AE("BENCH")
        entity.add_requested_context(ComputedRadiographyImageStorage)
        port = int(_PORT.findall(said)[0])
        association = entity.associate("127.0.0.1", port, ae_title="PNEUMOSCOPE")
        started, seconds = time.monotonic(), []
        for dataset in datasets:
            begun = time.perf_counter()
            status = association.send_c_store(dataset)
            seconds.append(time.perf_counter() - begun)
            assert status.Status == 0, f"C-STORE answered {status.Status:#x}"
        received = time.monotonic() - started
        association.release()
        _await_results(workspace / "pacs", len(datasets))
        examined = time.monotonic() - started
    rows = [
        _row("C-STORE, received", seconds, 60 * len(datasets) / received),
        ["C-STORE, examined", f"{60 * len(datasets) / examined:.0f}", "", "", ""],
    ]
    return Table("C-STORE, one association", ("side", "films/min", "p50", "p95", "p99"), rows)


def _row(side: str, seconds: Sequence[float], per_minute: float | None) -> list[str]:
    cuts = quantiles(seconds, n=100, method="inclusive")
    rate = 60 / mean(seconds) if per_minute is None else per_minute
    return [side, f"{rate:.0f}", *(f"{1000 * cuts[at - 1]:.0f} ms" for at in (50, 95, 99))]


def _bare() -> Callable[[Path], float]:
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.inference.pipeline import examine

    bundle = load_bundle("reference")

    def timed(file: Path) -> float:
        started = time.perf_counter()
        examine(file, bundle)
        return time.perf_counter() - started

    return timed


@contextmanager
def _server(home: Path, arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command of an installation in ``home``, and what it printed at its start."""
    home.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-m", "pneumoscope", *arguments, "--data-dir", str(home / "data")]
    with open(home / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "stops" in line or "takes images from" in line:
                break
        try:
            time.sleep(3)  # workers open the bundle
            yield process, said
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _client(said: str) -> tuple[httpx.Client, dict[str, str]]:
    address, secret = _ADDRESS.search(said), _SECRET.search(said)
    assert address is not None
    assert secret is not None
    client = httpx.Client(base_url=address[0], timeout=_END_S, limits=httpx.Limits(max_connections=32))
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            if client.get("/health/ready").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    return client, {"Authorization": f"Bearer {secret[0]}"}


def _request(client: httpx.Client, headers: dict[str, str], file: Path) -> float:
    content = file.read_bytes()
    started = time.perf_counter()
    answer = client.post("/v1/examine", headers=headers, files={"film": content}, data={"age_years": "3"})
    seconds = time.perf_counter() - started
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "done"
    return seconds


def _metrics(client: httpx.Client, headers: dict[str, str]) -> dict[str, float]:
    """Images received, results, and jobs by state."""
    counted: dict[str, float] = {}
    for line in client.get("/metrics", headers=headers).text.splitlines():
        name, _, value = line.rpartition(" ")
        for wanted, word in (("films_received_total", "films"), ("results_total", "results")):
            if name.startswith(f"pneumoscope_{wanted}"):
                counted[word] = counted.get(word, 0) + float(value)
        if name.startswith("pneumoscope_jobs"):
            state = re.search(r'state="(\w+)"', name)
            counted[f"jobs {state[1] if state else '?'}"] = float(value)
    return counted


def _await_results(home: Path, count: int) -> None:
    from sqlalchemy import func, select

    from pneumoscope_clinic.settings import load_settings
    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.store.tables import Result

    store = open_store(load_settings(None, {"data_dir": str(home / "data")}, {}))
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        with store.read() as session:
            if (session.scalar(select(func.count()).select_from(Result)) or 0) >= count:
                store.close()
                return
        time.sleep(0.05)
    raise RuntimeError("images were not examined")


def _as_dicom(file: Path) -> Any:
    """A JPEG image as Computed Radiography image, uncompressed."""
    import numpy as np
    from PIL import Image
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    with Image.open(io.BytesIO(file.read_bytes())) as image:
        pixels = np.asarray(image.convert("L"))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientAge = "Bench^Mark", generate_uid()[-16:], "003Y"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "AP"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    return dataset


def _tree_mb(root: int) -> float:
    """Proportional memory (PSS: shared pages are counted once) of a process and all below it, in MB."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    tree = {root}
    while grown := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    total = 0
    for pid in tree:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"Pss:\s+(\d+)", text)[1])  # type: ignore[index]
    return total * 1024 / 1e6


def _tenths(films: int) -> list[tuple[int, int]]:
    edges = [round(films * tenth / 10) for tenth in range(11)]
    return list(pairwise(edges))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--films", type=int, help="the long run, with so many images")
    parser.add_argument("--bundle", default="reference", help="of the long run (default: reference)")
    options = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tables = (
            [endure(Path(folder), options.films, options.bundle)] if options.films else compare(Path(folder))
        )
    for table in tables:
        print(f"\n{table.markdown()}", flush=True)


if __name__ == "__main__":
    main()
