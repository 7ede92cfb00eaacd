"""Encodings: what is certain is decoded as it was written, what is a guess is refused."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.text.encodings import FAMILIES, decode

TEXTS = {
    "cp1252": "# Écrit par José Müller; le fichier est modifié à la création\nx = 1\n",
    "cp1251": "# Функция вычисляет сумму двух чисел\ndef f(): pass\n",
    "gb18030": "# 这个函数计算两个数字的和然后返回结果\n",
    "cp949": "# 이 함수는 두 숫자의 합을 계산합니다\n",
    "cp1250": "# Funkcja zwraca sumę dwóch liczb, później zażółć gęślą jaźń\n",
    "big5": "# 這個函數計算兩個數字的和然後返回結果\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_comment_in_a_usual_encoding_is_read_as_it_was_written(name):
    found = decode(b"import os\n" * 3000 + TEXTS[name].encode(name))
    assert found == ("import os\n" * 3000 + TEXTS[name], name)


def test_one_accented_name_is_enough():
    assert decode("# Copyright (c) 2009 José Valim\ndef f(x):\n  return x\n".encode("latin-1")).text.startswith("# Copyright (c) 2009 José")


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xed\xa0\x80", bytes(range(1, 256)), b"A\xac\xf2", b"x\x89\xf3\x12\x90zz\xff\x01kk"])
def test_what_could_be_several_is_refused_and_under_the_name_of_a_licence_read(content):
    assert decode(content) is None
    assert decode(content, is_license=True).encoding in ("cp1252", "iso8859_1")


@pytest.mark.parametrize("line", ["# -*- coding: euc-jp -*-", "#!/bin/sh\n# vim: set fileencoding=euc_jp :"])
def test_a_declaration_in_the_first_two_lines_settles_it(line):
    text = f"{line}\n# この関数\n"
    assert decode(text.encode("euc_jp")) == (text, "euc_jp")
    assert decode(f"\n\n{line}\n# この関数\n".encode("euc_jp")) is None


@pytest.mark.parametrize("declared", ["rot13", "hex", "no-such", "utf-8", "utf_7", "", "idna", "unicode_escape", "zlib_codec"])
def test_a_declaration_that_is_no_encoding_of_text_is_passed_over(declared):
    assert decode(b"caf\xe9", declared=declared) is None


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=20),
    codec=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]),
)
def test_a_mark_says_what_follows(text, codec):
    mark = {
        "utf-8": codecs.BOM_UTF8,
        **{f"utf-{n}-{e}": getattr(codecs, f"BOM_UTF{n}_{e.upper()}") for n in (16, 32) for e in ("le", "be")},
    }[codec]
    if codec == "utf-16-le" and text.startswith("\0"):
        return  # these four bytes are the mark of UTF-32
    assert decode(mark + text.encode(codec)) == (text, "utf-8-sig" if codec == "utf-8" else codec)


@pytest.mark.parametrize("content", [codecs.BOM_UTF16_LE + b"a", codecs.BOM_UTF32_BE + b"\xff" * 4, codecs.BOM_UTF8 + b"\xff"])
def test_what_belies_its_mark_is_refused(content):
    assert decode(content, is_license=True) is None


@given(content=st.binary(max_size=60), declared=st.sampled_from([None, "latin-1", "gbk", "koi8-r"]))
def test_whatever_is_read_is_valid_and_the_same_again(content, declared):
    found = decode(content, declared=declared, is_license=True)
    assert found == decode(content, declared=declared, is_license=True)
    if found is not None:
        found.text.encode("utf-8")


def test_every_encoding_that_is_looked_for_is_known():
    assert all(codecs.lookup(name) for name in FAMILIES)
