"""Forms are read as the standard library reads them, only faster."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from server.platforms.fields import Fields

PIECES = "a Z = & + % %2 %zz %20 %2B %26 %3D %3d %C3%A9 %C3 %ff%fe %0A %0D%0A %E2%80%A8 _ é \n \r\n \t".split(" ")


@given(st.lists(st.sampled_from([*PIECES, " ", "==", "=\n", "%25"]), max_size=40).map("".join))
def test_a_form_is_what_parse_qsl_says(text):
    expected = parse_qsl(text, keep_blank_values=True)
    found = Fields.from_form(text.encode())
    assert {name: found.text(name) for name, _ in expected} == {k: v or None for k, v in dict(expected).items()}
