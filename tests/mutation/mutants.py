"""Small changes of the code that tests should notice: what can be changed, and a seeded sample of it.

The operators are those of cosmic-ray. Of its replacements of one operator by another only those are used that a slip of
the pen could make: the others mostly end in a TypeError, which any test notices, and would flatter the score.
"""

import difflib
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import Visitor
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python import tree

SWAPS = (
    ("Binary", "Add_Sub Sub_Add Mul_FloorDiv Mul_Add Div_Mul FloorDiv_Mul Mod_FloorDiv Pow_Mul"),
    ("Binary", "LShift_RShift RShift_LShift BitAnd_BitOr BitOr_BitAnd BitXor_BitOr"),
    ("Comparison", "Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_Gt Gt_Lt LtE_GtE GtE_LtE"),
    ("Unary", "Delete_Not USub_UAdd Delete_Invert"),
)

NAMES = (
    *(f"Replace{kind}Operator_{swap}" for kind, swaps in SWAPS for swap in swaps.split()),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    "ZeroIterationForLoop",
)


class DropStatement(Operator):
    """Replaces a call whose result is not used, or a `raise`, by `pass`: the check or the effect is missing."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where `node` can be changed."""
        if node.type == "simple_stmt" and _drops(node.children[0]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The changed node."""
        first = node.children[0]
        node.children[0] = tree.Keyword("pass", first.start_pos, prefix=first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> Sequence[Any]:
        """Required by cosmic-ray."""
        return ()


def _drops(statement: Any) -> bool:
    is_call = statement.type == "atom_expr" and getattr(statement.children[-1], "children", [""])[0] == "("
    return is_call or statement.type == "raise_stmt"


OPERATORS: dict[str, Operator] = {name: get_operator(f"core/{name}")() for name in NAMES} | {
    "DropStatement": DropStatement()
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    path       : of the file, relative to the repository
    line       : where the change is, from 1 on
    operator   : key of OPERATORS
    occurrence : which of the operator's changes in this file
    """

    path: str
    line: int
    operator: str
    occurrence: int

    def code(self, source: str) -> str:
        """The changed source of the file."""
        changed = mutate_code(source, OPERATORS[self.operator], self.occurrence)
        assert changed is not None, self
        return str(changed)


class _Places(Visitor):
    """Notes where an operator can change a file."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.found: list[tuple[tuple[int, int], bool]] = []

    def visit(self, node: Any) -> Any:
        """Visit a node; cosmic-ray counts occurrences in the same order."""
        for start, _ in self.operator.mutation_positions(node):
            self.found.append((start, _is_code(node)))
        return node


def _is_code(node: Any) -> bool:
    """False in annotations, which nothing reads at run time."""
    inner, outer = node, node.parent
    while outer is not None:
        if outer.type == "annassign" and inner is outer.children[1]:
            return False
        if outer.type == "tfpdef" and inner is outer.children[-1]:
            return False
        if outer.type == "funcdef" and inner is outer.annotation:
            return False
        inner, outer = outer, outer.parent
    return True


def sample(root: Path, paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """A random sample of places in the files, with one random change for each."""
    by_place: dict[tuple[str, tuple[int, int]], list[Mutant]] = defaultdict(list)
    for path in paths:
        source = (root / path).read_text()
        syntax = parso.parse(source)
        for name, operator in OPERATORS.items():
            places = _Places(operator)
            places.walk(syntax)
            for occurrence, (start, is_code) in enumerate(places.found):
                if is_code:
                    by_place[path, start].append(Mutant(path, start[0], name, occurrence))
    rng = random.Random(seed)
    places_in_order = sorted(by_place)
    rng.shuffle(places_in_order)
    drawn = (rng.choice(by_place[place]) for place in places_in_order)
    return list(islice((mutant for mutant in drawn if _compiles(mutant, root)), count))


def _compiles(mutant: Mutant, root: Path) -> bool:
    """False where cosmic-ray takes the `*` before keyword arguments for a product, or cannot replace `a.Error`."""
    try:
        compile(mutant.code((root / mutant.path).read_text()), mutant.path, "exec")
    except (SyntaxError, AttributeError):
        return False
    return True


def changed_lines(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, in both versions, without indentation and double spaces."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    old, new = (
        "\n".join(re.sub(r"\s+", " ", line[2:]).strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return old, new


def squeezed(code: str) -> str:
    """Code without spaces, of which changes have more than a person would write."""
    return "".join(code.split())
