"""Published networks by name, as conf/model has them."""

from pathlib import Path

import yaml

from starloom.model.architecture import Architecture

FOLDER = Path(__file__).parents[1] / "conf" / "model"


def load_presets() -> dict[str, Architecture]:
    """Load the architecture of each preset, smallest first; those that take the shape of a checkpoint have none.

    Sources stand in the files: StarCoder's Megatron-LM scripts (bigcode-project/Megatron-LM, examples/) and Li et al. 2023, arXiv
    2305.06161; Lozhkov et al. 2024, arXiv 2402.19173. YAML comes with accelerate, so a bare machine reads them too.
    """
    shapes = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["architecture"] for path in sorted(FOLDER.glob("*.yaml"))}
    found = {name: Architecture(**shape) for name, shape in shapes.items() if shape}
    return dict(sorted(found.items(), key=lambda item: item[1].num_parameters))
