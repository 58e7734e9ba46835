"""Docstrings in the Markdown of the site: roles become links and formulas, literal blocks code.

An extension of Griffe, which reads the docstrings for mkdocstrings, see ``mkdocs.yml``.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
MATHS = re.compile(r":math:`([^`]+)`")
LITERAL = re.compile(r"^( *)(.*?)::\n\n?((?:\1 {4}.*\n?|\n)+)", re.M)


class DocstringMarkup(Extension):
    """Rewrites the docstrings of all objects."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj)


def markdown(text: str, obj: Object) -> str:
    """Return a docstring with links for roles, and fenced blocks for literal ones."""
    text = LITERAL.sub(_block, text)
    text = MATHS.sub(lambda match: _formula(match[1]), text)
    return ROLE.sub(lambda match: _link(match[2], shorten=bool(match[1]), obj=obj), text)


def _block(match: re.Match[str]) -> str:
    indent, title, code = match.groups()
    inner = textwrap.indent(textwrap.dedent(code).strip("\n"), indent)
    return f"{indent}{title}:\n\n{indent}```python\n{inner}\n{indent}```\n"


def _formula(latex: str) -> str:
    # In a span, or Markdown would take one that begins a line for a block.
    mathml = convert(latex.replace("Var[", r"\operatorname{Var}["))
    return f"<span>{mathml}</span>"


def _link(name: str, *, shorten: bool, obj: Object) -> str:
    shown = name.rpartition(".")[2] if shorten else name
    # What has no page of its own is shown without a link.
    return f'<autoref identifier="{_path(name, obj)}" optional><code>{shown}</code></autoref>'


def _path(name: str, obj: Object) -> str:
    if name.startswith("admin_init."):
        return name
    try:
        return obj.resolve(name)
    except Exception:  # Griffe has an error for each way in which a name is not there
        return name
