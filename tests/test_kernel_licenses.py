"""Licences recognised in texts, headers and declarations, and judged by a policy."""

import re
import textwrap

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES

from starloom.tasks.kernels.licenses import headers, names, phrases
from starloom.tasks.kernels.licenses import policy as license_policy
from starloom.tasks.kernels.licenses import statements as licenses

TEXTS = dict(LICENSES)
POLICY = license_policy.Policy()


def header_licenses(column) -> dict[int, tuple[str, int, str]]:
    """Row → (expression, line, where) of the headers that state a licence."""
    where = {"tag": "header", "field": "header", "notice": "header notice"}
    found = headers.read_headers(column).items()
    return {row: (each.expression, each.line, where[each.rule]) for row, each in found if each.expression is not None}


def header(text: str) -> tuple[str, int, str] | None:
    return header_licenses(pa.chunked_array([["", text]])).get(1)


# ---- texts


@pytest.mark.parametrize("spdx_id", sorted(TEXTS))
def test_a_reference_text_is_recognised_as_itself_alone(spdx_id):
    assert licenses.text_licenses(TEXTS[spdx_id]) == (license_policy.canonical_id(spdx_id),)


@pytest.mark.parametrize("spdx_id", ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "GPL-3.0", "AGPL-3.0", "MPL-2.0", "ISC"])
@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: textwrap.fill(text, 50),
        lambda text: "\r\n".join("# " + line for line in text.splitlines()),
        lambda text: "Copyright (c) 2019-2026 Somebody & Sons\n\n" + text,
        lambda text: text.replace("[year] [fullname]", "1999 The Regents"),
    ],
    ids=["upper", "wrapped", "commented", "copyright", "named"],
)
def test_layout_case_and_copyright_lines_do_not_matter(spdx_id, change):
    assert licenses.text_licenses(change(TEXTS[spdx_id])) == (license_policy.canonical_id(spdx_id),)


@given(st.lists(st.sampled_from(["MIT", "Apache-2.0", "GPL-3.0", "MPL-2.0", "Zlib", "OFL-1.1"]), min_size=1, max_size=4, unique=True))
def test_a_file_of_several_licenses_states_them_all(chosen):
    text = "\n\n----\n\n".join(TEXTS[spdx_id] for spdx_id in chosen)
    assert set(licenses.text_licenses(text)) == {license_policy.canonical_id(spdx_id) for spdx_id in chosen}


def test_bsd_with_a_named_organisation_has_three_clauses():
    text = TEXTS["BSD-3-Clause"].replace("the copyright holder nor", "the University of Somewhere, Berkeley nor")
    assert licenses.text_licenses(text) == ("BSD-3-Clause",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n\nEveryone is permitted to copy", ("GPL-3.0-only",)),
        ("under the GNU Lesser General Public License, version 2.1 or later", ("LGPL-2.1-or-later",)),
        ("This is licensed under the AGPLv3.", ("AGPL-3.0-only",)),
        ("Released under the MIT License.", ("MIT",)),
        ("Licensed under the Apache License, Version 2.0", ("Apache-2.0",)),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n-----", ("PSF-2.0",)),
        ("SPDX-License-Identifier: EPL-2.0 OR MIT", ("EPL-2.0 OR MIT",)),
        ("X is available under the GNU GPL; see gnu.org", ("GPL-1.0-or-later",)),
        ("to combine Python with other software that is released under the GPL; the others don't", ()),
        ("END USER LICENSE AGREEMENT. Thrust comes under the Apache License, Version 2.0.", ("Apache-2.0", phrases.RESTRICTED)),
        ("You may use this for research purposes only.", (phrases.RESTRICTED,)),
        ("Anyone may use this for any purpose, commercial or non-commercial.", ()),
        ("material that was previously distributed under the GNU General Public License (GPL), the law of Virginia", ()),
        ("Thanks to everyone.", ()),
        ("", ()),
        ("\0\0 \u202e", ()),
    ],
)
def test_notices_are_read_where_no_text_is(text, expected):
    assert licenses.text_licenses(text) == expected


@pytest.mark.parametrize(
    "condition",
    [
        '"Commons Clause" License Condition v1.0: the License does not grant to you the right to Sell the Software.',
        "This permission is given for non-commercial purposes only.",
        "Commercial use is strictly prohibited.",
        "You may not modify, adapt, or reverse engineer the Software.",
    ],
)
def test_a_condition_takes_back_what_a_permissive_text_gives(condition):
    assert POLICY.judge(" AND ".join(licenses.text_licenses(TEXTS["MIT"] + "\n" + condition))) == "non-permissive"


def test_no_license_of_a_long_list_is_forgotten():
    names = [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "ISC",
        "Zlib",
        "BSL-1.0",
        "Unlicense",
        "NCSA",
        "PostgreSQL",
        "MS-PL",
        "CC0-1.0",
        "WTFPL",
        "AFL-3.0",
    ]
    found = licenses.text_licenses(
        "\n\n".join(TEXTS[name] for name in names if name in TEXTS) + "\nfonts: SIL Open Font License\nServer Side Public License"
    )
    assert "SSPL-1.0" in found
    assert len(found) > 12  # more than any record would show


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 500_000,
        "-\n" * 250_000,
        "SPDX-License-Identifier: MIT" + " " * 200_000 + "x",
        "SPDX-License-Identifier: MIT " + "*" * 200_000 + "x",
        "SPDX-License-Identifier: " + "MIT AND " * 50_000 + "MIT",
        "SPDX-License-Identifier: " + "(" * 200_000,
        "may not " * 50_000,
    ],
    ids=lambda text: repr(text[-12:]),
)
def test_work_on_a_hostile_text_is_in_proportion_to_it(text):
    # With an expression that tries again from every place, each of these takes minutes to years.
    assert licenses.text_licenses(text) == ()
    header_licenses(pa.chunked_array([[text]]))


@given(st.text(max_size=300))
def test_any_text_has_an_answer_of_known_ids(text):
    for spdx_id in licenses.text_licenses(text):
        assert POLICY.judge(spdx_id) in ("permissive", "non-permissive")


# ---- headers

GPL_NOTICE = """\
# This file is part of X.
#
# X is free software: you can redistribute it and/or modify it under the terms of the GNU General
# Public License as published by the Free Software Foundation, either version 2 of the License, or
# (at your option) any later version. See the GNU General Public License for more details.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# SPDX-License-Identifier: GPL-3.0-or-later\nx = 1", ("GPL-3.0-or-later", 1, "header")),
        ("#!/bin/sh\n/* SPDX-License-Identifier: MIT */", ("MIT", 2, "header")),
        ("<!-- SPDX-License-Identifier: (GPL-2.0 OR MIT) -->", ("(GPL-2.0 OR MIT)", 1, "header")),
        ("// SPDX-License-Identifier: MIT\n// SPDX-License-Identifier: ISC", ("(MIT) AND (ISC)", 1, "header")),
        ("\n" * 29 + "# SPDX-License-Identifier: MIT", ("MIT", 30, "header")),
        ("\n" * 30 + "# SPDX-License-Identifier: MIT", None),
        ("/* SPDX-License-Identifier: MIT ****/  ", ("MIT", 1, "header")),
        ('x = "SPDX-License-Identifier: MIT"  ', ("MIT", 1, "header")),
        ("# SPDX-License-Identifier: Whatever-1", ("Whatever-1", 1, "header")),
        (GPL_NOTICE, ("GPL-2.0-or-later", 3, "header notice")),
        ("// This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0.", ("MPL-2.0", 1, "header notice")),
        ("# spdx-license-identifier: MIT", ("MIT", 1, "header")),
        ("\n# License: GPLv3\n", ("GPL-3.0-only", 2, "header")),
        ("# Licensed under the LGPL, version 2.1", ("LGPL-2.1-only", 1, "header notice")),
        ("/* Dual licensed under the MIT and GPL version 2 licenses. */", None),
        ("/* Licensed under MIT or the GPLv2, at your choice. */", None),
        ("# The licence of this file is not the GPL", None),
        ("LICENSES = ['GNU General Public License v3', 'Mozilla Public License']", None),
        ("x = 1", None),
        ("é" * 5000, None),
    ],
)
def test_a_file_states_its_own_license_at_its_top(text, expected):
    assert header(text) == expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_headers_are_found_by_row_in_any_layout(kind):
    rows = ["", "# SPDX-License-Identifier: MIT", "é\n// SPDX-License-Identifier: ISC", "x"]
    column = pa.chunked_array([pa.array(rows[:2], kind), pa.array(rows[2:], kind)])
    assert header_licenses(column) == {1: ("MIT", 1, "header"), 2: ("ISC", 2, "header")}


# ---- declarations


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("Apache-2.0 OR BSD-3-Clause", "Apache-2.0 OR BSD-3-Clause"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("The MIT License (MIT)", "MIT"),
        ("MIT licence", "MIT"),
        ("BSD", "BSD-3-Clause"),
        ("BSD 2-Clause License", "BSD-2-Clause"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("GNU General Public License v2 or later (GPLv2+)", "GPL-2.0-or-later"),
        ("LGPLv3", "LGPL-3.0-only"),
        ("Python Software Foundation License", "PSF-2.0"),
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"),
        ("License :: OSI Approved :: BSD License; License :: OSI Approved :: Apache Software License", "Apache-2.0 AND BSD-3-Clause"),
        ("License :: OSI Approved; License :: OSI Approved :: MIT License", "MIT"),
        ("License :: OSI Approved :: MIT License; License :: Other/Proprietary License", f"{phrases.RESTRICTED} AND MIT"),
        ("License :: Free for non-commercial use", phrases.RESTRICTED),
        ("License :: Freeware", None),
        ("MIT License (non-commercial use only)", f"{phrases.RESTRICTED} AND MIT"),
        ("Apache 2.0 + Commons Clause", f"Apache-2.0 AND {phrases.RESTRICTED}"),
        ("Proprietary", phrases.RESTRICTED),
        ("NVIDIA Proprietary Software", phrases.RESTRICTED),
        ("LicenseRef-NVIDIA-Proprietary", phrases.RESTRICTED),
        ("GPL", "GPL-1.0-or-later"),
        ("GNU GPL", "GPL-1.0-or-later"),
        ("LGPL with exceptions", "LGPL-2.0-or-later"),
        ("LGPL/MIT", "LGPL-2.0-or-later"),
        ("GPL-compatible", None),
        ("CC0", "CC0-1.0"),
        ("UNKNOWN", None),
        ("Dual License", None),
        ("ask my lawyer", None),
    ],
)
def test_a_declaration_means_an_expression_or_nothing(declared, expected):
    assert names.declared_expression(declared) == expected


@pytest.mark.parametrize(
    "table",
    [names.CLASSIFIERS, {n: i for n, i in names.SHORT_NAMES.items() if " OR " not in i}, dict(phrases.PHRASES)],
    ids=["classifiers", "names", "phrases"],
)
def test_every_id_in_the_tables_is_a_current_one(table):
    assert [spdx_id for spdx_id in table.values() if license_policy.canonical_id(spdx_id) != spdx_id] == []


# ---- policy


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", "permissive"),
        ("CC0-1.0", "permissive"),
        ("Artistic-2.0", "permissive"),
        ("MPL-2.0", "non-permissive"),
        ("GPL-2.0+", "non-permissive"),
        ("CC-BY-NC-4.0", "non-permissive"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "non-permissive"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"),
        ("Foo-1.0", "unknown-license"),
        ("MIT OR", "unknown-license"),
        ("", "unknown-license"),
    ],
)
def test_one_license_is_judged_by_its_category(expression, expected):
    assert POLICY.judge(expression) == expected


EXPRESSIONS = st.recursive(
    st.sampled_from(["MIT", "ISC", "GPL-3.0-only", "MPL-2.0"]),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_or_needs_one_and_needs_all(tree):
    def spelt(node) -> str:
        return node if isinstance(node, str) else f"({spelt(node[0])} {node[1]} {spelt(node[2])})"

    def permits(node) -> bool:
        if isinstance(node, str):
            return node in ("MIT", "ISC")
        left, operator, right = node
        return (permits(left) and permits(right)) if operator == "AND" else (permits(left) or permits(right))

    assert POLICY.judge(spelt(tree)) == ("permissive" if permits(tree) else "non-permissive")


@given(st.lists(st.sampled_from(["MIT", "(", ")", "AND", "OR", "WITH", "+", "?", " ", "-", "Classpath-exception-2.0", "é"]), max_size=8))
def test_anything_is_an_expression_or_unknown(pieces):
    assert POLICY.judge(" ".join(pieces)) in ("permissive", "non-permissive", "unknown-license")


@given(st.lists(st.sampled_from(" ".join(pattern for pattern, _ in phrases.PHRASES).split()), max_size=12))
def test_phrases_screened_in_one_pass_are_those_found_one_by_one(words):
    text = " ".join(words) + " bsd licence mozilla public license 2 eula"
    one_by_one = {spdx_id for pattern, spdx_id in phrases.PHRASES if re.search(pattern, phrases.ASIDES.sub(" ", text))}
    for longer, shorter in phrases._CONTAINED:
        one_by_one -= {shorter} if longer in one_by_one else set()
    assert phrases.phrase_licenses(text) == one_by_one | phrases.gnu_licenses(text)


def test_names_overrule_categories_and_denial_overrules_permission():
    policy = license_policy.Policy(allow=frozenset({"MPL-2.0", "ISC"}), deny=frozenset({"MIT", "ISC"}))
    assert [policy.judge(e) for e in ("MPL-2.0", "MIT", "ISC", "MIT OR MPL-2.0")] == [
        "permissive",
        "non-permissive",
        "non-permissive",
        "permissive",
    ]


def test_old_and_lower_case_ids_have_a_current_form():
    assert license_policy.canonical_id("gpl-3.0+") == "GPL-3.0-or-later"
    assert license_policy.canonical_id("Classpath-exception-2.0") is None
    assert "MIT" in license_policy.known_ids()
