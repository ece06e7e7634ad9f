"""The software bill of materials of a bundle: the model, its data, and every library that runs it here.

In: the content of ``bundle.json``. Out: a CycloneDX 1.6 document (ECMA-424) as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from pneumoscope import __version__


def bill_of_materials(document: Mapping[str, Any], model_hash: str) -> str:
    """The bill as JSON.

    Args:
        document: content of ``bundle.json``.
        model_hash: SHA-256 of ``model.onnx``.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    model = Component(
        name=document["name"],
        version=document["id"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model_hash)],
        description=document["intended_use"],
    )
    training = document["training"]
    data = Component(
        name=training["dataset_name"],
        type=ComponentType.DATA,
        bom_ref="training-data",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=training["dataset_hash"])],
        description="training films; the hash is of their manifest (path, hash, patient, label)",
    )
    bill = Bom(components=[data])
    bill.metadata.component = model
    libraries = []
    for distribution in installed_closure("pneumoscope"):
        name, version = distribution.metadata["Name"], distribution.version
        libraries.append(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=f"{name}@{version}",
                purl=PackageURL("pypi", None, name.lower(), version),
                description=_licence(distribution),
            )
        )
    bill.components.update(libraries)
    bill.register_dependency(model, [data, *libraries])
    return JsonV1Dot6(bill).output_as_string(indent=2) + "\n"


def installed_closure(name: str) -> list[metadata.Distribution]:
    """``name`` and everything that it needs, as far as it is installed, sorted by name.

    What only an extra needs is left out, as it does not take part in an answer.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in found:
            continue
        try:
            found[wanted] = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:  # for another platform or Python
            continue
        waiting.extend(_required(found[wanted]))
    return [found[key] for key in sorted(found)]


def _required(distribution: metadata.Distribution) -> Iterator[str]:
    from packaging.requirements import Requirement

    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name.lower().replace("_", "-")


def _licence(distribution: metadata.Distribution) -> str:
    """What the package says of its licence."""
    about = distribution.metadata.json
    stated = str(about.get("license_expression") or about.get("license") or "")
    classifiers = [c.split(" :: ")[-1] for c in about.get("classifier", ()) if c.startswith("License")]
    first = stated.splitlines()[0] if stated else ", ".join(classifiers)
    return f"pneumoscope {__version__} runs on it; licence: {first or 'not stated'}"
