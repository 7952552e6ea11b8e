"""
Tests of :mod:`fxprofile.model.keys`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.keys import (
    DEFAULT_AVATAR_ID,
    FORMATS,
    MAX_LETTER,
    VARIANTS,
    id_of_public_key,
    image_url,
    initial,
    is_id,
    is_image_name,
    is_uid,
    key_parts,
    monogram,
    new_id,
    private_key,
    public_key,
    public_keys,
)

ID = "0123456789abcdef0123456789abcdef"

#: What comes near to an id, and is none.
NOT_IDS = (
    "",
    ID[:-1],
    ID + "0",
    ID.upper(),
    ID + "\n",
    "\n" + ID,
    ID[:-1] + "g",
    ID[:-1] + "/",
    "../" + ID[3:],
    ID[:-1] + "\u0660",
    ID[:-1] + "\uff10",
    ID + "_small",
    ID.encode(),
    int(ID, 16),
    None,
    [ID],
)


class IdTests(SynchronousTestCase):
    """Ids of avatars and users."""

    def test_new_ids_are_valid_and_unique(self) -> None:
        """New ids are valid and unique."""
        ids = {new_id() for _ in range(1000)}
        self.assertEqual(len(ids), 1000)
        self.assertTrue(all(is_id(avatar_id) for avatar_id in ids))
        self.assertNotIn(DEFAULT_AVATAR_ID, ids)

    def test_ids_are_32_lower_case_hex_digits(self) -> None:
        """An id of an avatar or user is 32 lower-case hex digits."""
        for check in (is_id, is_uid):
            self.assertTrue(check(ID))
            self.assertTrue(check(DEFAULT_AVATAR_ID))
            for text in NOT_IDS:
                self.assertFalse(check(text), text)

    @given(st.text())
    def test_any_other_text_is_no_id(self, text: str) -> None:
        """Any other text is not an id."""
        expected = len(text) == 32 and set(text) <= set("0123456789abcdef")
        self.assertEqual(is_id(text), expected)


class KeyTests(SynchronousTestCase):
    """Object keys in the buckets."""

    def test_keys_of_original_and_pictures(self) -> None:
        """The key of an original is its id; the key of a picture is the path of its URL."""
        self.assertEqual(private_key(ID), ID)
        self.assertEqual(public_keys(ID)[:3], [f"a/{ID}", f"a/{ID}_small", f"a/{ID}_large"])
        self.assertEqual(public_key(ID), f"a/{ID}")
        self.assertEqual(public_key(ID, "large"), f"a/{ID}_large")

    def test_keys_of_other_formats(self) -> None:
        """
        The keys of other formats are those of the PNGs with a suffix, and have the same avatar id.
        """
        self.assertEqual(public_key(ID, "small", "webp"), f"a/{ID}_small.webp")
        self.assertEqual(public_key(ID, "default", "avif"), f"a/{ID}.avif")
        self.assertEqual(len(set(public_keys(ID))), len(VARIANTS) * len(FORMATS))
        self.assertRaises(KeyError, public_key, ID, "small", "svg")

    def test_no_key_without_an_id(self) -> None:
        """A text that is not an id has no key."""
        for text in NOT_IDS:
            for make in (private_key, public_key, public_keys):
                self.assertRaises(ValueError, make, text)

    def test_unknown_variant(self) -> None:
        """An unknown variant has no key."""
        for variant in ("", "huge", "_small"):
            self.assertRaises(KeyError, public_key, ID, variant)

    def test_keys_are_valid_in_every_bucket(self) -> None:
        """Every key is valid for every bucket driver."""
        for key in (private_key(ID), *public_keys(ID)):
            self.assertEqual("/".join(key_parts(key)), key)

    def test_id_of_a_public_key(self) -> None:
        """The avatar id is found in the key of a picture, and in no other key."""
        for key in public_keys(ID):
            self.assertEqual(id_of_public_key(key), ID)
        for key in (
            "",
            "a/",
            ID,
            f"b/{ID}",
            f"a/a/{ID}",
            f"a/{ID}_huge",
            f"a/{ID.upper()}",
            f"a/{ID}.gif",
        ):
            self.assertIsNone(id_of_public_key(key), key)

    def test_sides_of_the_variants(self) -> None:
        """The bounding boxes have sides of 100, 200 and 600 pixels."""
        self.assertEqual(
            {name: side for name, (_, side) in VARIANTS.items()},
            {"small": 100, "default": 200, "large": 600},
        )


class InitialTests(SynchronousTestCase):
    """The letter of a monogram."""

    def test_initial_of_any_script(self) -> None:
        """The initial is the first letter or digit as written, with its marks, in any script."""
        for name, letter in (
            ("zoë", "z"),
            ("Zoë", "Z"),
            ("7 of 9", "7"),
            ("ärger", "ä"),
            ("a\u0308rger", "ä"),
            ("x\u0304y", "x\u0304"),
            ("한글", "한"),
            ("\u1112\u1161\u11ab글", "한"),
            ("ßeta", "ß"),
            ("ﬁn", "ﬁ"),
            ("ნინო", "ნ"),
            ("नितिन", "नि"),
            ("اسم", "ا"),
            ("𠮷田", "𠮷"),
        ):
            self.assertEqual(initial(name), letter, name)

    def test_no_initial(self) -> None:
        """A text that begins with another character has no initial."""
        for name in ("", " a", "<b>", "🦊", "-", "\u0301a", "\u200fא", "\0", "‘a"):
            self.assertIsNone(initial(name), repr(name))

    @given(st.text(min_size=1))
    def test_initial_is_one_character(self, name: str) -> None:
        """The initial is one character, whose initial and monogram are itself."""
        letter = initial(name)
        if letter is not None:
            self.assertLessEqual(len(letter), MAX_LETTER)
            self.assertEqual((initial(letter), monogram(letter)), (letter, letter))

    def test_monogram_of_one_character(self) -> None:
        """The monogram of one character is itself if it is a letter or digit, else ``?``."""
        for text, shown in (
            *(("z", "z"), ("7", "7"), ("a\u0308", "ä"), ("\u1112\u1161\u11ab", "한")),
            *(("x" + "\u0304" * 7, "x" + "\u0304" * 7), ("-", "?"), ("🦊", "?"), ("\u0301", "?")),
            *(("", None), ("ab", None), ("a-", None), ("x" + "\u0304" * 8, None)),
        ):
            self.assertEqual(monogram(text), shown, repr(text))

    def test_marks_are_not_all_normalized(self) -> None:
        """A letter with very many combining marks has a short initial and no monogram."""
        marks = "a" + "\u0323\u0301" * 500_000
        self.assertEqual(initial(marks), initial(marks[:32]))
        self.assertIsNone(monogram(marks))


class ImageTests(SynchronousTestCase):
    """URLs of pictures."""

    def test_image_url(self) -> None:
        """The id and the suffix of the variant replace the placeholder of the template."""
        self.assertEqual(image_url("http://x/a/{id}", ID), f"http://x/a/{ID}")
        self.assertEqual(image_url("http://x/{id}.png", ID, "small"), f"http://x/{ID}_small.png")

    def test_image_names(self) -> None:
        """An image name is an id with or without the suffix of a variant."""
        for name in (ID, ID + "_small", ID + "_large", DEFAULT_AVATAR_ID):
            self.assertTrue(is_image_name(name))
        for name in ("", ID + "_huge", ID + "_small_large", ID + "_", ID + "\n", "../x"):
            self.assertFalse(is_image_name(name), name)
