"""Scopes, and what implies what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.profiles.scopes import MAX_CHARACTERS, MAX_WORDS, Scopes, implies, is_scope

WORDS = st.sampled_from(["profile", "avatar", "avatars", "write", "email", "a", "A", "_"])
NAMES = (
    st.lists(WORDS, min_size=1, max_size=5)
    .filter(lambda words: words != ["write"])
    .map(lambda words: ":".join(words))
)
SEGMENTS = st.sampled_from(["apps", "app", "sync", "a%20b", "x~y"])
URLS = st.builds(
    lambda host, path, fragment: f"https://{host}/{'/'.join(path)}{fragment}",
    st.sampled_from(["a.example", "b.example", "a.example:8443"]),
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.sampled_from(["", "#read", "#write"]),
)
SCOPES = st.one_of(NAMES, URLS)

IMPLIED = [
    ("profile", "profile"),
    ("profile", "profile:email"),
    ("profile", "profile:a:b:c"),
    ("profile:write", "profile"),
    ("profile:write", "profile:avatar"),
    ("profile:write", "profile:write"),
    ("profile:write", "profile:avatar:write"),
    ("profile:avatar:write", "profile:avatar"),
    ("profile:avatar:write", "profile:avatar:small:write"),
    ("openid", "openid"),
    ("email", "email"),
    ("https://a.example/apps", "https://a.example/apps"),
    ("https://a.example/apps", "https://a.example/apps/sync"),
    ("https://a.example/apps", "https://a.example/apps#read"),
    ("https://a.example/apps", "https://a.example/apps/sync#read"),
    ("https://a.example/apps#read", "https://a.example/apps/sync#read"),
    ("https://a.example:8443/apps", "https://a.example:8443/apps/sync"),
]
NOT_IMPLIED = [
    ("profile", "profile:write"),
    ("profile", "profile:avatar:write"),
    ("profile:avatar", "profile:avatar:write"),
    ("profile:avatar", "profile"),
    ("profile:avatar:write", "profile"),
    ("profile:avatar:write", "profile:email"),
    ("prof", "profile"),
    ("profile", "profiles"),
    ("profile:ava", "profile:avatar"),
    ("profile:avatar", "profile:avatar_url"),
    ("profile", "Profile"),
    ("profile", "email"),
    ("profile", "openid"),
    ("email", "profile:email"),
    ("openid", "profile"),
    ("profile:email", "email"),
    ("https://a.example/apps", "https://a.example/application"),
    ("https://a.example/apps/sync", "https://a.example/apps"),
    ("https://a.example/apps", "https://b.example/apps"),
    ("https://a.example/apps", "https://a.example:8443/apps"),
    ("https://a.example/apps#read", "https://a.example/apps"),
    ("https://a.example/apps#read", "https://a.example/apps#write"),
    ("https://a.example/apps#rea", "https://a.example/apps#read"),
    ("profile", "https://a.example/profile"),
    ("https://a.example/profile", "profile"),
]
MALFORMED = [
    "",
    " ",
    "write",
    ":",
    ":profile",
    "profile:",
    "profile::avatar",
    "profile avatar",
    "profile\n",
    "profile\x00",
    "profile:*",
    "*",
    "prófile",
    "profile\u200b",
    "\ud800",
    "profile-read",
    ":".join(["a"] * (MAX_WORDS + 1)),
    "a" * (MAX_CHARACTERS + 1),
    "https:",
    "https://",
    "https://a.example",
    "https://a.example/",
    "https://a.example/apps/",
    "https://a.example//apps",
    "https://a.example/./apps",
    "https://a.example/../apps",
    "https://a.example/%2E%2e/apps",
    "https://a.example:443/apps",
    "https://a.example:0/apps",
    "https://A.example/apps",
    "https://user@a.example/apps",
    "https://user:secret@a.example/apps",
    "https://a.example/apps?x=1",
    "https://a.example/apps#",
    "https://a.example/apps#a-b",
    "https://a.example/apps#a#b",
    "https://a.example/a\\b",
    "https://a.example/ápps",
    "https://a.example/apps\n",
    "http://a.example/apps",
    "HTTPS://a.example/apps",
]


class ImpliesTests(SynchronousTestCase):
    """One scope and another."""

    def test_implied(self) -> None:
        """Names imply longer names, writing implies reading, URLs imply what is below them."""
        for held, needed in IMPLIED:
            self.assertTrue(implies(held, needed), f"{held} -> {needed}")

    def test_not_implied(self) -> None:
        """Nothing implies writing but writing, and half a word or segment implies nothing."""
        for held, needed in NOT_IMPLIED:
            self.assertFalse(implies(held, needed), f"{held} -> {needed}")

    def test_malformed(self) -> None:
        """What is not a scope implies nothing, not even itself, and raises nothing."""
        for text in MALFORMED:
            self.assertFalse(is_scope(text), repr(text))
            self.assertFalse(implies(text, text), repr(text))
            self.assertFalse(implies(text, "profile"), repr(text))
            self.assertFalse(implies("profile:write", text), repr(text))

    @given(SCOPES)
    def test_reflexive(self, scope: str) -> None:
        """A scope implies itself."""
        self.assertTrue(implies(scope, scope))

    @given(SCOPES, SCOPES, SCOPES)
    def test_transitive(self, a: str, b: str, c: str) -> None:
        """What an implied scope implies is implied."""
        if implies(a, b) and implies(b, c):
            self.assertTrue(implies(a, c))

    @given(NAMES, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3))
    def test_transitive_below(self, name: str, more: list[str], yet_more: list[str]) -> None:
        """The same, for names that are likely to imply one another."""
        b = ":".join([name.removesuffix(":write"), *more])
        c = ":".join([b.removesuffix(":write"), *yet_more])
        if implies(name, b) and implies(b, c):
            self.assertTrue(implies(name, c))

    @given(SCOPES, SCOPES)
    def test_antisymmetric(self, a: str, b: str) -> None:
        """Two scopes that imply each other are the same."""
        if implies(a, b) and implies(b, a):
            self.assertEqual(a, b)

    @given(NAMES, NAMES)
    def test_never_from_read_to_write(self, held: str, needed: str) -> None:
        """A scope that only reads implies no scope that writes."""
        if implies(held, needed) and needed.endswith(":write"):
            self.assertTrue(held.endswith(":write"))

    @given(NAMES, st.lists(WORDS, min_size=1, max_size=3))
    def test_read_never_allows_write_below(self, name: str, more: list[str]) -> None:
        """The same, for names below a name that only reads."""
        if not name.endswith("write"):
            self.assertFalse(implies(name, ":".join([name, *more, "write"])))

    @given(SCOPES, st.text("abcxyz_09", min_size=1, max_size=5))
    def test_never_a_bare_prefix(self, scope: str, tail: str) -> None:
        """A scope implies nothing that merely begins with the same characters."""
        if not scope.endswith(":write"):
            self.assertFalse(implies(scope, scope + tail))

    @given(SCOPES, SCOPES)
    def test_whole_parts_only(self, held: str, needed: str) -> None:
        """The words or segments of the implying scope begin those of the implied one."""

        def parts(text: str) -> list[str]:
            text = text.partition("#")[0]
            return text.removesuffix(":write").replace("https://", "").replace("/", ":").split(":")

        if implies(held, needed):
            self.assertEqual(parts(held), parts(needed)[: len(parts(held))])

    @given(st.text(), st.text())
    def test_any_text(self, held: str, needed: str) -> None:
        """No text whatever raises."""
        implies(held, needed)
        implies(held, "profile")
        implies("https://" + held, "https://" + needed)


class ScopesTests(SynchronousTestCase):
    """The scopes of a token."""

    def test_any_of(self) -> None:
        """One of the needed scopes is enough."""
        scopes = Scopes("openid profile:email")
        self.assertTrue(scopes.allows("email", "profile:email"))
        self.assertTrue(scopes.allows("openid"))
        self.assertFalse(scopes.allows("email", "profile:uid"))

    def test_nothing_needed_is_nothing_allowed(self) -> None:
        """Who forgets to say what is needed is refused."""
        self.assertFalse(Scopes("profile:write").allows())

    def test_text_and_list(self) -> None:
        """A text with spaces and a list make equal and interchangeable values."""
        text, listed = Scopes("  profile   email "), Scopes(["email", "profile", "email"])
        self.assertEqual(text, listed)
        self.assertEqual(hash(text), hash(listed))
        self.assertNotEqual(text, Scopes("profile"))
        self.assertEqual(list(text), ["email", "profile"])
        self.assertEqual(len(text), 2)

    def test_malformed_are_left_out(self) -> None:
        """What is not a scope does not spoil the others."""
        scopes = Scopes(["profile:", "profile email", "email", None, 7])  # type: ignore[list-item]
        self.assertEqual(str(scopes), "email")
        self.assertFalse(scopes.allows("profile", "", "write", "profile email"))

    def test_only_spaces_separate(self) -> None:
        """A tab or a newline does not end a scope."""
        self.assertEqual(len(Scopes("profile\tprofile:write\nopenid")), 0)

    def test_frozen(self) -> None:
        """A value cannot be changed into another."""
        with self.assertRaises(AttributeError):
            Scopes("profile").values = frozenset({"profile:write"})  # type: ignore[misc]

    def test_text_form(self) -> None:
        """Texts that people see name the scopes in order."""
        self.assertEqual(str(Scopes("b a")), "a b")
        self.assertEqual(repr(Scopes("b a")), "Scopes('a b')")

    @given(st.lists(SCOPES, max_size=5), SCOPES)
    def test_same_as_each_alone(self, held: list[str], needed: str) -> None:
        """Scopes allow together exactly what any of them implies alone."""
        self.assertEqual(Scopes(held).allows(needed), any(implies(scope, needed) for scope in held))
