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
    """Return whether a request with these headers gets 304 for an object with the ETag ``abc``."""
    headers = Headers()
    for tag in tags:
        headers.addRawHeader(b"If-None-Match", tag)
    if since is not None:
        headers.addRawHeader(b"If-Modified-Since", since)
    return not_modified(headers, etag="abc", modified=modified)


class MatchesTests(SynchronousTestCase):
    def test_matching_tags(self) -> None:
        """A tag matches alone, weak, in a list, in a second header, and twice quoted, and with
        ``*``."""
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
            # As Firefox for Android and iOS send it.
            [b'""abc""'],
            [b'"W/"abc""'],
            [b'"x", ""abc""'],
        ):
            self.assertTrue(asked(*lines), lines)

    def test_other_tags(self) -> None:
        """Other tags, parts of a tag, other case and malformed tags do not match."""
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

    def test_comma_inside_a_tag(self) -> None:
        """A comma inside a tag does not end it."""
        self.assertTrue(matches('"x,y", "z"', "x,y"))

    def test_no_header_does_not_match(self) -> None:
        """A request without a tag does not match."""
        self.assertFalse(asked())

    @given(st.lists(st.from_regex(r"\A[\x21\x23-\x7e]{1,8}\Z"), min_size=1, max_size=6))
    def test_tag_in_a_list(self, tags: Sequence[str]) -> None:
        """A tag matches a list if and only if it is in the list."""
        line = " , ".join(f'"{tag}"' for tag in tags)
        for tag in ("abc", *tags):
            self.assertEqual(matches(line, tag), tag in tags)

    @given(st.binary(max_size=200))
    def test_any_header_is_safe(self, line: bytes) -> None:
        """No header value raises an error."""
        self.assertIn(asked(line), (True, False))


class NotModifiedTests(SynchronousTestCase):
    def test_tag_takes_precedence(self) -> None:
        """If-None-Match takes precedence over If-Modified-Since."""
        self.assertFalse(asked(b'"other"', since=datetimeToString(2000)))
        self.assertTrue(asked(b'"abc"', since=datetimeToString(1)))

    def test_date_of_the_object_or_later_matches(self) -> None:
        """The date of the object or a later one matches; an earlier one does not."""
        for date, expected in ((999, False), (1000, True), (1001, True)):
            self.assertEqual(asked(since=datetimeToString(date)), expected, date)

    def test_fraction_of_a_second(self) -> None:
        """A date has whole seconds; the one made from a modification time matches it."""
        self.assertTrue(asked(since=datetimeToString(1000.75), modified=1000.75))

    def test_unconditional_request(self) -> None:
        """A request without a condition gets the object."""
        self.assertFalse(asked())
        self.assertFalse(is_conditional(Headers()))
        for name in (b"If-None-Match", b"If-Modified-Since"):
            self.assertTrue(is_conditional(Headers({name: [b"x"]})))

    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_any_date_is_safe(self, date: bytes) -> None:
        """No date raises an error."""
        self.assertIn(asked(since=date), (True, False))

    def test_invalid_dates_are_ignored(self) -> None:
        """An invalid or out-of-range date is ignored."""
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
