"""OAuth scopes, and which of them implies which."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.profiles.scopes import MAX_CHARACTERS, MAX_WORDS, allows, implies

WORDS = st.sampled_from(["profile", "avatar", "avatars", "write", "email", "a", "A", "_"])
SCOPES = (
    st.lists(WORDS, min_size=1, max_size=5)
    .filter(lambda words: words != ["write"])
    .map(lambda words: ":".join(words))
)

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
    ("profile", "https://a.example/profile"),
    ("https://a.example/profile", "profile"),
    ("https://a.example/apps", "https://a.example/apps"),
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
    "https://identity.mozilla.com/apps/sync",
    "https://identity.mozilla.com/apps/sync#read",
]


class ImpliesTests(SynchronousTestCase):
    """Whether one scope implies another."""

    def test_implied_scopes(self) -> None:
        """Scopes imply longer scopes, and writing implies reading."""
        for held, needed in IMPLIED:
            self.assertTrue(implies(held, needed), f"{held} -> {needed}")

    def test_scopes_that_are_not_implied(self) -> None:
        """Reading never implies writing, and a part of a word implies nothing."""
        for held, needed in NOT_IMPLIED:
            self.assertFalse(implies(held, needed), f"{held} -> {needed}")

    def test_malformed_scopes_imply_nothing(self) -> None:
        """A malformed scope implies nothing, not even itself, and raises no error."""
        for text in MALFORMED:
            self.assertFalse(implies(text, text), repr(text))
            self.assertFalse(implies(text, "profile"), repr(text))
            self.assertFalse(implies("profile:write", text), repr(text))

    @given(SCOPES)
    def test_implication_is_reflexive(self, scope: str) -> None:
        """Every scope implies itself."""
        self.assertTrue(implies(scope, scope))

    @given(SCOPES, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3))
    def test_implication_is_transitive(self, a: str, more: list[str], yet_more: list[str]) -> None:
        """A scope implies what its implied scopes imply."""
        b = ":".join([a.removesuffix(":write"), *more])
        c = ":".join([b.removesuffix(":write"), *yet_more])
        if implies(a, b) and implies(b, c):
            self.assertTrue(implies(a, c))

    @given(SCOPES, SCOPES)
    def test_implication_is_antisymmetric(self, a: str, b: str) -> None:
        """Two scopes that imply each other are equal."""
        if implies(a, b) and implies(b, a):
            self.assertEqual(a, b)

    @given(SCOPES, SCOPES)
    def test_reading_never_implies_writing(self, held: str, needed: str) -> None:
        """A scope that grants reading implies no scope that grants writing."""
        if implies(held, needed) and needed.endswith(":write"):
            self.assertTrue(held.endswith(":write"))

    @given(SCOPES, st.lists(WORDS, min_size=1, max_size=3))
    def test_reading_never_implies_writing_below(self, scope: str, more: list[str]) -> None:
        """A scope that grants reading implies no scope below it that grants writing."""
        if not scope.endswith("write"):
            self.assertFalse(implies(scope, ":".join([scope, *more, "write"])))

    @given(SCOPES, st.text("abcxyz_09", min_size=1, max_size=5))
    def test_prefix_of_a_word_implies_nothing(self, scope: str, tail: str) -> None:
        """A scope does not imply a scope whose last word merely begins like its own."""
        if not scope.endswith(":write"):
            self.assertFalse(implies(scope, scope + tail))

    @given(SCOPES, SCOPES)
    def test_implied_scope_begins_with_the_same_words(self, held: str, needed: str) -> None:
        """The words of a scope are the first words of each scope that it implies."""
        words, needed_words = (text.removesuffix(":write").split(":") for text in (held, needed))
        if implies(held, needed):
            self.assertEqual(words, needed_words[: len(words)])

    @given(st.text(), st.text())
    def test_any_text_is_accepted(self, held: str, needed: str) -> None:
        """No text raises an error."""
        implies(held, needed)
        implies(held, "profile")


class AllowsTests(SynchronousTestCase):
    """Whether the scopes of a token allow something."""

    def test_any_needed_scope_is_sufficient(self) -> None:
        """One of the needed scopes is sufficient."""
        held = ("openid", "profile:email")
        self.assertTrue(allows(held, "email", "profile:email"))
        self.assertTrue(allows(held, "openid"))
        self.assertFalse(allows(held, "email", "profile:uid"))

    def test_without_needed_scopes_nothing_is_allowed(self) -> None:
        """If no needed scope is given, nothing is allowed."""
        self.assertFalse(allows(("profile:write",)))

    def test_malformed_scopes_are_ignored(self) -> None:
        """Malformed scopes do not affect the others."""
        held = ("profile:", "profile email", "email", "")
        self.assertTrue(allows(held, "email"))
        self.assertFalse(allows(held, "profile", "", "write", "profile email"))

    @given(st.lists(SCOPES, max_size=5), SCOPES)
    def test_scopes_together_allow_what_each_implies(self, held: list[str], needed: str) -> None:
        """Several scopes allow exactly what any of them implies."""
        self.assertEqual(allows(held, needed), any(implies(scope, needed) for scope in held))
