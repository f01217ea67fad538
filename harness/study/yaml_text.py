"""Reads YAML without its surprises: 1e-3 is a number, and numbers in other bases than ten are rejected."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

_FLOAT = "tag:yaml.org,2002:float"
# As JSON, Python and YAML 1.2 write floats; YAML 1.1 wants a point and the sign of the exponent.
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_OCTAL = re.compile(r"^[-+]?0[0-9_]+$")
_LOOKS = {"tag:yaml.org,2002:int": "a number in base 8 or 60", _FLOAT: "a number in base 60"}


class Loader(yaml.SafeLoader):
    """PyYAML's, without its surprises; what it refuses is a MarkedYAMLError."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[Any] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse an alias to what it stands in: who follows it, never comes to an end."""
        event: Any = self.peek_event()
        if self.check_event(yaml.AliasEvent) and event.anchor in self._open:
            raise yaml.composer.ComposerError(None, None, f"*{event.anchor} contains itself", event.start_mark)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Refuse 010, which YAML 1.1 takes for 8, and 1:30, which it takes for 90."""
        node = super().compose_scalar_node(anchor)
        if node.style is None and node.tag in _LOOKS and (":" in node.value or _OCTAL.match(node.value)):
            raise yaml.composer.ComposerError(
                None,
                None,
                f"YAML reads {node.value} as {_LOOKS[node.tag]}; allowed: a decimal number without leading zeros, or "
                f'"{node.value}" in quotes for a text',
                node.start_mark,
            )
        return node


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads as it was."""


for _each in (Loader, Dumper):
    _each.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """The content of a text.

    Raises:
        ValueError: It is no YAML, or not as `Loader` wants it; the message is one line.
    """
    with _one_line():
        return yaml.load(text, Loader)


def read_nodes(text: str) -> tuple[Any, yaml.Node | None]:
    """The content of a text and its nodes, which say where in it each part stands; raises as `read_yaml` does."""
    with _one_line():
        loader = Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), node


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # A date that there is not is a ValueError of PyYAML.
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
