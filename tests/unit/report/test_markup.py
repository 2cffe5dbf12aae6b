"""Escaping by construction."""

import pytest

from recjax.report.markup import Html, element, escape, join

EVIL = "<script>alert('x')</script> & \"Sons\""
SAFE = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;Sons&quot;"


def test_text_is_escaped_and_html_is_not():
    assert escape(EVIL) == SAFE
    assert element("p", EVIL, title=EVIL) == f'<p title="{SAFE}">{SAFE}</p>'
    assert element("p", element("b", "a"), "<") == "<p><b>a</b>&lt;</p>"
    assert join(Html("<br>"), "<br>") == "<br>&lt;br&gt;"
    assert isinstance(join("a", "b"), Html)


def test_a_string_method_makes_text_of_html():
    assert element("p", element("b", "a").upper()) == "<p>&lt;B&gt;A&lt;/B&gt;</p>"


def test_attributes():
    assert element("a", class_="n", aria_label="x", id=None, width=0.5) == (
        '<a class="n" aria-label="x" width="0.5"></a>'
    )
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


@pytest.mark.parametrize(
    "character", ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\ud83d", "\uffff"]
)
def test_what_html_cannot_hold_is_replaced(character):
    assert escape(f"a{character}b\tc\n") == "a\ufffdb\tc\n"
    escape(character).encode("utf-8")
