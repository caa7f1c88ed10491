"""License keys: derived, checked, forgiving."""

from __future__ import annotations

import random

from server.domain import keys

KEY = keys.derive("secret", "gumroad", "s1", "wave")


def test_the_shape_of_a_key():
    groups = KEY.split("-")
    assert [len(group) for group in groups] == [6, 6, 6, 6, 6]
    assert set("".join(groups)) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert KEY[0] == "1"  # the version
    assert keys.derive("secret", "gumroad", "s1", "wave", prefix="WAVE") == "WAVE-" + KEY


def test_the_same_sale_always_gives_the_same_key_and_anything_else_another():
    assert keys.derive("secret", "gumroad", "s1", "wave") == KEY
    others = [
        keys.derive("other", "gumroad", "s1", "wave"),
        keys.derive("secret", "stripe", "s1", "wave"),
        keys.derive("secret", "gumroad", "s2", "wave"),
        keys.derive("secret", "gumroad", "s1", "team"),
        keys.derive("secret", "gumroad", "s1", "wave", reissue=1),
        keys.derive("secret", "gumroads", "1", "wave"),
    ]
    assert len({KEY, *others}) == 7


def test_a_key_is_pinned_for_ever():
    """Licenses that were sold must be derived alike by every later version."""
    assert KEY == "11NJ18-ZSQEKA-JGAVSB-621P1Z-0EDQCA"


def test_any_one_to_three_wrong_symbols_are_noticed():
    body = KEY.replace("-", "")
    chance = random.Random(1)
    for at in range(30):
        for symbol in keys.ALPHABET.replace(body[at], ""):
            assert not keys.is_sound(body[:at] + symbol + body[at + 1 :])
    for wrong in (2, 3):
        for _ in range(3000):
            changed = list(body)
            for at in chance.sample(range(30), wrong):
                changed[at] = chance.choice(keys.ALPHABET.replace(changed[at], ""))
            assert not keys.is_sound("".join(changed))
    assert keys.is_sound(body)


def test_reading_forgives_what_people_type():
    typed = " " + KEY.lower().replace("-", " ").replace("0", "o").replace("1", "l") + " "
    assert KEY in keys.readings(typed)
    assert "WAVE-" + KEY in keys.readings("wave" + typed, ["WAVE"])
    assert "WAVE-" + KEY in keys.readings(KEY, ["WAVE"])  # a forgotten prefix
    assert list(keys.readings("my-old-key")) == ["my-old-key"]


def test_an_exact_match_goes_first():
    assert next(keys.readings(KEY)) == KEY
    assert next(keys.readings("  anything Else ")) == "  anything Else "


def test_the_public_id_and_the_mask_do_not_give_the_key_away():
    assert keys.license_id("A") == "lic_559aead08264d5795d39"
    assert keys.masked(KEY) == f"{KEY[:4]}…{KEY[-4:]}"
    assert keys.masked("short") == "…"
