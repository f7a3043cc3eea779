"""A call that has to be made: the JSON schema of the answer, and how such an answer is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from eyas.serve.tools.formats import ToolFormat

FORCED = ToolFormat("forced", "", {}, is_bare=True)  # the answer is the JSON of a call, and nothing else


def call_schema(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of one call of one of the tools."""
    calls, definitions = list[dict[str, Any]](), dict[str, Any]()
    for tool in tools:
        function = tool["function"]
        parameters = dict(function.get("parameters") or {"type": "object"})
        for key in ("$defs", "definitions"):  # what the parameters refer to, from the root
            definitions.setdefault(key, {}).update(parameters.pop(key, {}))
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    form = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return form | {key: named for key, named in definitions.items() if named}
