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
    VARIANTS,
    id_of_public_key,
    image_url,
    initial,
    is_id,
    is_image_name,
    is_uid,
    key_parts,
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

    def test_new(self) -> None:
        """New ids are ids, and never the same."""
        ids = {new_id() for _ in range(1000)}
        self.assertEqual(len(ids), 1000)
        self.assertTrue(all(is_id(avatar_id) for avatar_id in ids))
        self.assertNotIn(DEFAULT_AVATAR_ID, ids)

    def test_is_id(self) -> None:
        """Only 32 lower-case hex digits are an id, of an avatar as of a user."""
        for check in (is_id, is_uid):
            self.assertTrue(check(ID))
            self.assertTrue(check(DEFAULT_AVATAR_ID))
            for text in NOT_IDS:
                self.assertFalse(check(text), text)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """No other text is one."""
        expected = len(text) == 32 and set(text) <= set("0123456789abcdef")
        self.assertEqual(is_id(text), expected)


class KeyTests(SynchronousTestCase):
    """Keys in buckets."""

    def test_keys(self) -> None:
        """An original has the id as its key, the pictures have the path of their URL."""
        self.assertEqual(private_key(ID), ID)
        self.assertEqual(public_keys(ID)[:3], [f"a/{ID}", f"a/{ID}_small", f"a/{ID}_large"])
        self.assertEqual(public_key(ID), f"a/{ID}")
        self.assertEqual(public_key(ID, "large"), f"a/{ID}_large")

    def test_formats(self) -> None:
        """Pictures in other formats lie beside the PNGs, and all of them have the same owner."""
        self.assertEqual(public_key(ID, "small", "webp"), f"a/{ID}_small.webp")
        self.assertEqual(public_key(ID, "default", "avif"), f"a/{ID}.avif")
        self.assertEqual(len(set(public_keys(ID))), len(VARIANTS) * len(FORMATS))
        self.assertRaises(KeyError, public_key, ID, "small", "svg")

    def test_not_an_id(self) -> None:
        """What is no id is in no key."""
        for text in NOT_IDS:
            for make in (private_key, public_key, public_keys):
                self.assertRaises(ValueError, make, text)

    def test_no_such_variant(self) -> None:
        """There are three variants and no others."""
        for variant in ("", "huge", "_small"):
            self.assertRaises(KeyError, public_key, ID, variant)

    def test_buckets_take_them(self) -> None:
        """Every key is one that every bucket takes."""
        for key in (private_key(ID), *public_keys(ID)):
            self.assertEqual("/".join(key_parts(key)), key)

    def test_back(self) -> None:
        """The id can be had back from a key of a picture, and from no other."""
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

    def test_sides(self) -> None:
        """The boxes are 100, 200 and 600 pixels."""
        self.assertEqual(
            {name: side for name, (_, side) in VARIANTS.items()},
            {"small": 100, "default": 200, "large": 600},
        )


class InitialTests(SynchronousTestCase):
    """The letter that stands for a name."""

    def test_letters(self) -> None:
        """It is the first letter or digit, whatever the script and however it is written."""
        for name, letter in (
            ("zoë", "Z"),
            ("7 of 9", "7"),
            ("ärger", "Ä"),
            ("a\u0308rger", "Ä"),
            ("한글", "한"),
            ("\u1112\u1161\u11ab글", "한"),
            ("ßeta", "S"),
            ("ﬁn", "F"),
            ("ნინო", "ნ"),
            ("नितिन", "न"),
            ("اسم", "ا"),
            ("𠮷田", "𠮷"),
        ):
            self.assertEqual(initial(name), letter, name)

    def test_none(self) -> None:
        """What begins with anything else has none."""
        for name in ("", " a", "<b>", "🦊", "-", "\u0301a", "\u200fא", "\0", "‘a"):
            self.assertIsNone(initial(name), repr(name))

    @given(st.text(min_size=1))
    def test_one(self, name: str) -> None:
        """It is one character, which stands for itself."""
        letter = initial(name)
        if letter is not None:
            self.assertEqual((len(letter), initial(letter)), (1, letter))


class ImageTests(SynchronousTestCase):
    """URLs of pictures."""

    def test_urls(self) -> None:
        """The id and the variant are put where the setting says."""
        self.assertEqual(image_url("http://x/a/{id}", ID), f"http://x/a/{ID}")
        self.assertEqual(image_url("http://x/{id}.png", ID, "small"), f"http://x/{ID}_small.png")

    def test_names(self) -> None:
        """What may follow ``/a/`` is an id with or without its variant."""
        for name in (ID, ID + "_small", ID + "_large", DEFAULT_AVATAR_ID):
            self.assertTrue(is_image_name(name))
        for name in ("", ID + "_huge", ID + "_small_large", ID + "_", ID + "\n", "../x"):
            self.assertFalse(is_image_name(name), name)
