"""
Tests of :mod:`fxprofile.serving.conditional`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from fxprofile.serving.conditional import is_conditional, matches, not_modified


def asked(*tags: bytes, since: bytes | None = None, modified: float = 1000.0) -> bool:
    """Whether a request with these headers gets 304 for an object with the tag ``abc``."""
    headers = Headers()
    for tag in tags:
        headers.addRawHeader(b"If-None-Match", tag)
    if since is not None:
        headers.addRawHeader(b"If-Modified-Since", since)
    return not_modified(headers, etag="abc", modified=modified)


class MatchesTests(SynchronousTestCase):
    def test_named(self) -> None:
        """The tag may stand alone, weak, in a list, in a second header, or be any."""
        for lines in (
            [b'"abc"'],
            [b'W/"abc"'],
            [b'"x", "abc"'],
            [b'"x","abc","y"'],
            [b'"x",W/"abc"'],
            [b'  "abc"  '],
            [b'"x"', b'"abc"'],
            [b"*"],
            [b" * "],
        ):
            self.assertTrue(asked(*lines), lines)

    def test_not_named(self) -> None:
        """Other tags, parts of it, other case, and what is no tag do not match."""
        for lines in (
            [b'"ab"'],
            [b'"abcd"'],
            [b'"ABC"'],
            [b"abc"],
            [b"'abc'"],
            [b""],
            [b'"*"'],
            [b'"x, abc"'],
            [b'"a", b, "c"'],
            [b'\xff"'],
        ):
            self.assertFalse(asked(*lines), lines)

    def test_comma_inside(self) -> None:
        """A comma inside a tag does not end it."""
        self.assertTrue(matches('"x,y", "z"', "x,y"))

    def test_no_header(self) -> None:
        """Who names no tag has none."""
        self.assertFalse(asked())

    @given(st.lists(st.from_regex(r"\A[\x21\x23-\x7e]{1,8}\Z"), min_size=1, max_size=6))
    def test_lists(self, tags: Sequence[str]) -> None:
        """A tag matches a list if and only if it is in the list."""
        line = " , ".join(f'"{tag}"' for tag in tags)
        for tag in ("abc", *tags):
            self.assertEqual(matches(line, tag), tag in tags)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, line: bytes) -> None:
        """No header is an error."""
        self.assertIn(asked(line), (True, False))


class NotModifiedTests(SynchronousTestCase):
    def test_tag_before_date(self) -> None:
        """Where there is a tag, the date says nothing."""
        self.assertFalse(asked(b'"other"', since=datetimeToString(2000)))
        self.assertTrue(asked(b'"abc"', since=datetimeToString(1)))

    def test_date(self) -> None:
        """The date of the object, or a later one, matches; an earlier one does not."""
        for date, expected in ((999, False), (1000, True), (1001, True)):
            self.assertEqual(asked(since=datetimeToString(date)), expected, date)

    def test_fraction(self) -> None:
        """A date has whole seconds, and what was made from it matches."""
        self.assertTrue(asked(since=datetimeToString(1000.75), modified=1000.75))

    def test_no_condition(self) -> None:
        """Who asks for no condition gets the object."""
        self.assertFalse(asked())
        self.assertFalse(is_conditional(Headers()))
        for name in (b"If-None-Match", b"If-Modified-Since"):
            self.assertTrue(is_conditional(Headers({name: [b"x"]})))

    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_any_bytes(self, date: bytes) -> None:
        """No date is an error."""
        self.assertIn(asked(since=date), (True, False))

    def test_strange_dates(self) -> None:
        """What is no date, or out of every range, is ignored."""
        for date in (
            b"Sun, 99 Foo 1994 08:49:37 GMT",
            b"Sun, 06 Nov 99999999999 08:49:37 GMT",
            b"06 Nov 1994 08:49:37 +999999",
            b"yesterday",
            b"0",
            b"-1",
            b",",
        ):
            self.assertFalse(asked(since=date), date)
