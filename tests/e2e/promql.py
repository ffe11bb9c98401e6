"""Expressions of rules without their conditions: whether what they join would match, where nothing is wrong.

An alert that is quiet returns nothing, and one whose parts can never meet returns nothing, too. So each is asked as if it
wanted everything: thresholds, offsets and exceptions are taken away, the joins and the labels stay.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any, Final

COMPARISONS: Final = {"==", "!=", ">", "<", ">=", "<="}
STEP: Final = "5s"  # of a subquery: there is less here than the minutes that it would go in


def loosened(tree: Any) -> list[str]:
    """Of an expression as Prometheus parses it, one for each way through its ``or``: each has to return something."""
    kind = tree["type"]
    if kind in {"numberLiteral", "stringLiteral"}:
        return [tree["val"] if kind == "numberLiteral" else json.dumps(tree["val"])]
    if kind in {"vectorSelector", "matrixSelector"}:
        matchers = (f"{each['name']}{each['type']}{json.dumps(each['value'])}" for each in tree["matchers"])
        return [f"{{{', '.join(matchers)}}}" + (f"[{tree['range'] // 1000}s]" if "range" in tree else "")]
    if kind == "call":
        name, ways = tree["func"]["name"], product(*map(loosened, tree["args"]))
        return [way[0] if name == "absent" else f"{name}({', '.join(way)})" for way in ways]
    if kind == "binaryExpr":
        return _binary(tree)
    return [_around(tree, inner) for inner in loosened(tree["expr"])]


def _around(tree: Any, inner: str) -> str:
    if tree["type"] == "aggregation":
        parameter = f"{loosened(tree['param'])[0]}, " if tree["param"] else ""
        how = f"{'without' if tree['without'] else 'by'} ({', '.join(tree['grouping'])})"
        return f"{tree['op']} {how} ({parameter}{inner})"
    if tree["type"] == "subquery":
        return f"({inner})[{tree['range'] // 1000}s:{STEP}]"
    return f"{tree['op']}{inner}" if tree["type"] == "unaryExpr" else f"({inner})"


def _binary(tree: Any) -> list[str]:
    operator, left, right = tree["op"], loosened(tree["lhs"]), loosened(tree["rhs"])
    if operator == "or":
        return left + right
    if operator in COMPARISONS:
        if tree["rhs"]["type"] == "numberLiteral":
            return left
        if tree["lhs"]["type"] == "numberLiteral":
            return right
        operator = "+"  # what is compared has to meet
    if operator == "unless":
        operator = "and"
    return [f"({one} {operator} {_matching(tree['matching'])}{other})" for one, other in product(left, right)]


def _matching(how: Any) -> str:
    if not how or not (how["on"] or how["labels"]):
        return ""
    text = f"{'on' if how['on'] else 'ignoring'} ({', '.join(how['labels'])}) "
    group = {"many-to-one": "group_left", "one-to-many": "group_right"}.get(how["card"])
    return f"{text}{group} ({', '.join(how['include'])}) " if group else text
