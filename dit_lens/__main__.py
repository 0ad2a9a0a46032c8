"""What is installed and where to start: `python -m dit_lens`."""

from __future__ import annotations

import importlib.metadata as metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement

import dit_lens

ALWAYS = ("torch", "diffusers", "transformers", "nnsight")
START = """\
start     lens = dit_lens.DiTLens.from_pretrained("mini-wan"), in Python or a notebook
          python -m analyses                    every question, its data and models (in a checkout)
          python -m analyses.patch_heads        which heads carry physical plausibility in mini-wan"""


def main() -> None:
    """Prints versions, devices, extras, bundled models and first commands."""
    print(f"dit_lens  {dit_lens.__version__}, {platform.python_implementation()} {platform.python_version()}")
    print(f"packages  {', '.join(f'{name} {metadata.version(name)}' for name in ALWAYS)}")
    print(f"devices   {', '.join(devices())}")
    for name, missing in extras().items():
        state = "installed" if not missing else f"without {', '.join(missing)}: pip install 'dit-lens[{name}]'"
        print(f"extra     {name}: {state}")
    from dit_lens.models import BUNDLED

    print(f"models    {', '.join(BUNDLED)} (bundled); any diffusers folder or hub id of a supported family")
    print(START)


def devices() -> Iterator[str]:
    """The devices that torch can use, with their memory (GiB) and what they multiply fast."""
    import torch

    yield f"cpu ({torch.get_num_threads()} threads)"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({device.name}, {device.total_memory / 2**30:.0f} GiB)"
    if torch.backends.mps.is_available():
        yield "mps"


def extras() -> dict[str, list[str]]:
    """For each extra of the installed package, its distributions that are missing here."""
    distribution = metadata.distribution("dit-lens")
    missing: dict[str, list[str]] = {name: [] for name in distribution.metadata.get_all("Provides-Extra") or ()}
    for requirement in map(Requirement, distribution.requires or ()):
        if (marker := requirement.marker) is None or _installed(requirement.name):
            continue
        for name in missing:
            if marker.evaluate({"extra": name}):
                missing[name].append(requirement.name)
    return missing


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
