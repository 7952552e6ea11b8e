"""Every regular expression of the package is matched in linear time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as sre  # type: ignore[attr-defined]
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import fxprofile

PACKAGE = Path(fxprofile.__file__).parent

#: The characters that patterns can tell apart, about: ASCII, and two that stand for the others.
ALPHABET = [chr(i) for i in range(128)] + ["\xff", "\u0663"]

#: Repeats of so many times or more count as unlimited.
MANY = 8

#: Patterns that meet no byte of a client.
TRUSTED = ("admin/", "settings/")


@dataclass
class Automaton:
    """
    The positions of a pattern (Glushkov's construction).

    :ivar matched: the characters that each position matches.
    :ivar follow: the positions that may follow each.
    :ivar nested: whether one position may follow another in two ways.
    """

    matched: list[frozenset[str]] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    nested: bool = False

    def position(self, characters: frozenset[str]) -> int:
        self.matched.append(characters)
        self.follow.append(set())
        return len(self.matched) - 1

    def chain(self, before: set[int], after: set[int]) -> None:
        for position in before:
            self.follow[position] |= after

    def sequence(self, items: Any, flags: int) -> tuple[set[int], set[int], bool]:
        """Return the first and last positions of some items, and whether they match nothing."""
        first: set[int] = set()
        last: set[int] = set()
        empty = True
        for item in items:
            one, other, skipped = self.item(item, flags)
            self.chain(last, one)
            first |= one if empty else set()
            last = (last | other) if skipped else other
            empty = empty and skipped
        return first, last, empty

    def item(self, item: Any, flags: int) -> tuple[set[int], set[int], bool]:
        kind, value = item
        if kind is sre.SUBPATTERN:
            return self.sequence(value[3], flags | value[1])
        if kind is sre.BRANCH:
            parts = [self.sequence(branch, flags) for branch in value[1]]
            return (
                set().union(*(part[0] for part in parts)),
                set().union(*(part[1] for part in parts)),
                any(part[2] for part in parts),
            )
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            return self.repeat(*value, flags)
        if kind is sre.AT:
            return set(), set(), True
        position = self.position(_characters(item, flags))
        return {position}, {position}, False

    def repeat(
        self, least: int, most: int, items: Any, flags: int
    ) -> tuple[set[int], set[int], bool]:
        copies = max(1, min(least, MANY)) if most >= MANY else most
        parts = [(list(items), index >= least) for index in range(copies)]
        first, last, empty = set[int](), set[int](), True
        for inner, optional in parts:
            one, other, skipped = self.sequence(inner, flags)
            skipped = skipped or optional
            self.chain(last, one)
            first |= one if empty else set()
            last = (last | other) if skipped else other
            empty = empty and skipped
            if most >= MANY and inner is parts[-1][0]:
                # An inner loop that is the outer one, too: as in ``(a*)*``.
                self.nested |= any(self.follow[position] & one for position in other)
                self.chain(other, one)
        return first, last, empty


def _characters(item: Any, flags: int) -> frozenset[str]:
    """Return the characters that an item matches, by asking :mod:`re` for each."""
    parsed = _parser.SubPattern(_parser.State(), [item])
    pattern = _compiler.compile(parsed, flags)
    return frozenset(c for c in ALPHABET if pattern.fullmatch(c))


def is_ambiguous(pattern: str | bytes, flags: int, *, search: bool) -> bool:
    """
    Return whether a failing match can take more than linear time.

    That is if there are two positions and a text with which the first leads to itself, the
    first to the second, and the second to itself (Weber and Seidl, 1991).  Then a matcher that
    backtracks tries every place to change from one to the other.

    :param search: whether the match may begin anywhere.
    """
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    automaton = Automaton()
    parsed = _parser.parse(text, flags)
    first, _, _ = automaton.sequence(parsed, parsed.state.flags)
    if search:
        start = automaton.position(frozenset(ALPHABET))
        automaton.follow[start] = {start, *first}
    follow, matched = automaton.follow, automaton.matched
    loops = [p for p in range(len(follow)) if _leads(follow, matched, (p, p, p), (p, p, p))]
    # Two ways back to the same position would even be exponential.
    return automaton.nested or any(
        _leads(follow, matched, (p, p, q), (p, q, q), apart=p == q)
        for p, q in product(loops, repeat=2)
    )


def _leads(
    follow: list[set[int]],
    matched: list[frozenset[str]],
    begin: tuple[int, int, int],
    end: tuple[int, int, int],
    apart: bool = False,
) -> bool:
    """Return whether three walks lead from here to there with one text, or two apart."""
    seen: set[tuple[int, int, int, bool]] = set()
    todo = [(*begin, not apart)]
    while todo:
        *walks, differed = todo.pop()
        for step in product(*(follow[walk] for walk in walks)):
            if not frozenset.intersection(*(matched[walk] for walk in step)):
                continue
            state = (*step, differed or step[0] != step[1])
            if state[:3] == end and state[3]:
                return True
            if state not in seen:
                seen.add(state)  # type: ignore[arg-type]
                todo.append(state)  # type: ignore[arg-type]
    return False


@dataclass
class Found:
    """A pattern of the package."""

    where: str
    pattern: str | bytes
    flags: int
    search: bool


def patterns() -> Iterator[Found]:
    """Yield every pattern that the package gives to :mod:`re`."""
    sources = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    everything = "".join(sources.values())
    for path, source in sources.items():
        relative = str(path.relative_to(PACKAGE))
        if relative.startswith(TRUSTED) or not re.search(r"^import re$", source, re.MULTILINE):
            continue
        module = import_module("fxprofile." + relative.removesuffix(".py").replace("/", "."))
        named = {
            id(value): name for name, value in vars(module).items() if isinstance(value, re.Pattern)
        }
        for name in named.values():
            compiled = vars(module)[name]
            scans = re.search(rf"\b{name}\.(search|findall|finditer|sub|split)\b", everything)
            flags = compiled.flags & ~re.UNICODE
            yield Found(f"{relative}: {name}", compiled.pattern, flags, scans is not None)
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr not in ("compile", "escape")
            ):
                pattern = ast.literal_eval(node.args[0])
                scans = node.func.attr not in ("match", "fullmatch")
                yield Found(f"{relative}:{node.lineno}", pattern, 0, bool(scans))


class PatternTests(SynchronousTestCase):
    def test_ambiguity_is_found(self) -> None:
        """The check tells patterns that are slow on some text from those that are linear."""
        for pattern, search in (
            (r"0*(\d+)", False),
            (r'wait\s*=\s*"?0*(\d+)"?', False),
            (r"(a*)*b", False),
            (r"(ab|a.)+c", False),
            (r"(\w+\s?)*$", False),
            (r".*,.*,", False),
            (r"a+b", True),
            (r"\s*,", True),
        ):
            self.assertTrue(is_ambiguous(pattern, 0, search=search), pattern)
        for pattern, search in (
            (r"a*b*c", False),
            (r"(ab*,)+", False),
            (r"a+b", False),
            (r'"[^"]*"', True),
            (r"[0-9a-f]{32}(_small)?", False),
            (r"bearer +([A-Za-z0-9._~+/-]{1,4096}=*)", False),
        ):
            self.assertFalse(is_ambiguous(pattern, 0, search=search), pattern)

    def test_patterns_are_linear(self) -> None:
        """No pattern that meets bytes of a client can take more than linear time."""
        found = list(patterns())
        self.assertGreater(len(found), 12)
        slow = [one for one in found if is_ambiguous(one.pattern, one.flags, search=one.search)]
        self.assertEqual(slow, [])
