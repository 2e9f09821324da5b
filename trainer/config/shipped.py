"""The configurations that are installed with the package, and what `--config` may name."""

from __future__ import annotations

import difflib
from pathlib import Path

from data_shards.errors import ConfigError

RUN_CONFIG = "config.yaml"
"""The file of a run's folder that holds its configuration."""
_ROOT = Path(__file__).parents[2]
# An installed package has them beside the facade (setup.py), a checkout at its top.
_FOLDERS = (_ROOT / "clmle" / "configs", _ROOT / "configs")


def shipped_configs() -> dict[str, Path]:
    """Name of each shipped configuration -> its YAML file."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    files = sorted(folder.glob("*.yaml")) if folder is not None else []
    return {file.stem: file for file in files}


def config_path(named: str | Path) -> Path:
    """The YAML file that `--config` names.

    Args:
        named: a file, the folder of a run (its `config.yaml`), or the bare name of a shipped
            configuration, such as "long_tail". What exists on the disk comes first.

    Raises:
        ConfigError: nothing of that name; suggests the nearest shipped configuration.
    """
    path = Path(named)
    if path.is_dir() and (path / RUN_CONFIG).exists():
        return path / RUN_CONFIG
    if path.exists() and not path.is_dir():
        return path
    shipped = shipped_configs()
    if str(named) in shipped:
        return shipped[str(named)]
    if path.is_dir():
        raise ConfigError(f"{path} is a folder without a {RUN_CONFIG}; name a YAML file or a run")
    near = difflib.get_close_matches(path.stem, shipped, n=1)
    hint = f"did you mean --config {near[0]}?" if near else f"shipped: {', '.join(shipped)}"
    raise ConfigError(
        f"cannot read the configuration {named}: No such file, and no shipped configuration has "
        f"that name; {hint}"
    )
