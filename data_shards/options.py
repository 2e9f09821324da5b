"""Command lines that say which option was meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from itertools import takewhile
from typing import Any


class OptionParser(argparse.ArgumentParser):
    """Says of an unknown option which was meant, before it asks for those that are missing."""

    takes_settings = False
    """Whether it has `--set`, so that an option such as --train.steps is a setting."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of argparse; options that it does not know end the program."""
        words = list(sys.argv[1:] if args is None else args)
        for word in takewhile(lambda word: word != "--", words):
            name = word.split("=")[0]
            if name.startswith("--") and not self._knows(name):
                self.error(f"unknown option {name}; {self._meant(name)}")
        return super().parse_known_args(words, namespace)

    def _knows(self, name: str) -> bool:
        return any(option.startswith(name) for option in self._option_string_actions)

    def _meant(self, name: str) -> str:
        if self.takes_settings and "." in name:
            return f"did you mean --set {name.lstrip('-')}=VALUE?"
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
