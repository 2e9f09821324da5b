"""The options of every command that takes a run's configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_shards.options import OptionParser
from data_shards.paths import path_or_name
from data_shards.streams import write_file_to_stdout
from trainer.config.recipe import Derived
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import load_with_recipe, to_yaml


def config_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that name a configuration and change it."""
    parser = OptionParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.takes_settings = True
    parser.add_argument(
        "--config",
        required=True,
        type=path_or_name,
        metavar="FILE|RUN|NAME",
        help="YAML file, the folder of a run, or the name of a shipped one, such as long_tail",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="a.b=v",
        help="change one setting, such as --set train.steps=100 (repeatable); a text is taken as "
        "it is written, any other value is YAML",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration and stop; clmle run also checks what can be known",
    )
    return parser


def resolved(options: argparse.Namespace) -> tuple[RunConfig, list[Derived]]:
    """The configuration that the options of `config_parser` name, and what a recipe derived."""
    return load_with_recipe(options.config, options.overrides)


def print_if_dry_run(
    options: argparse.Namespace, config: RunConfig, derived: Sequence[Derived]
) -> bool:
    """Print the resolved configuration if `--dry-run` asks for it; whether it did."""
    if options.dry_run:
        write_file_to_stdout()
        sys.stdout.write(to_yaml(config, derived))
    return bool(options.dry_run)


def add_resume_option(parser: argparse.ArgumentParser) -> None:
    """Add `--resume`: the checkpoint that training resumes from."""
    parser.add_argument(
        "--resume",
        default="auto",
        type=path_or_name,
        metavar="auto|none|PATH",
        help="resume from the run's newest checkpoint (auto, default), from none, or from PATH",
    )
