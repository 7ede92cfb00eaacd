"""Licence evidence of whole repositories: what was answered wrongly once, and which statement decides."""

import pytest
from identify.vendor.licenses import LICENSES

from tests.licensing import judged

TEXTS = dict(LICENSES)
MIT, GPL, APACHE = TEXTS["MIT"], TEXTS["GPL-3.0"], TEXTS["Apache-2.0"]
RESTRICTED = "LicenseRef-scancode-proprietary-license"
DEP5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
GPL_HEADER = "# SPDX-License-Identifier: GPL-3.0-or-later\n"


def classes(files, **knobs):
    return {path: (each["license_class"], each["expression"]) for path, each in judged(files, **knobs).items()}


HEADERS = [
    (
        '/*\n * Licensed under the Apache License, Version 2.0 (the "License");\n * you may not use this file except in compliance\n */',
        "Apache-2.0",
    ),
    (
        "# MIT License\n#\n# This program is distributed in the hope that it will be useful,\n# but WITHOUT ANY WARRANTY",
        "MIT",
    ),
    (
        "# This code is licensed under both the MIT license found in the LICENSE_MIT file\n# and the Apache License, Version 2.0",
        "Apache-2.0 AND MIT",
    ),
    ("# MIT License (see LICENSE or https://opensource.org/licenses/MIT)", "MIT"),
    ("// Copyright 2021 Acme. All rights reserved. Confidential and proprietary.", RESTRICTED),
    ("/* Redistribution and use in source and binary forms, with or without\n * modification, are permitted */", "BSD-2-Clause"),
    ("// Use of this source code is governed by a BSD-style\n// license that can be found in the LICENSE file.", "BSD-3-Clause"),
    ("; This Source Code Form is subject to the terms of the Mozilla Public\n; License, v. 2.0.", "MPL-2.0"),
    ("/* Permission to use, copy, modify, and/or distribute this software for any\n * purpose with or without fee is granted */", "ISC"),
    ("# This program is free software; you can redistribute it under the terms of the GNU General Public License, v2", "GPL-2.0-only"),
    ("-- This work is licensed under a Creative Commons Attribution-ShareAlike 4.0 License.", "CC-BY-SA-4.0"),
    ("// Distributed under the Boost Software License, Version 1.0.", "BSL-1.0"),
    ("# SPDX-License-Identifier: Zlib", "Zlib"),
    ("/* @license MIT */", "MIT"),
    ('__license__ = "Apache 2.0"', "Apache-2.0"),
    ("// Licensed under either of Apache License, Version 2.0 or the MIT license at your option.", "Apache-2.0 OR MIT"),
    ("! This file is in the public domain.", "LicenseRef-scancode-public-domain"),
    ("// This program is made available under the terms of the Eclipse Public License v1.0", "EPL-1.0"),
    ("# This module is free software; you may redistribute it under the same terms as Perl itself.", "Artistic-1.0-Perl"),
]


@pytest.mark.parametrize(("text", "expression"), HEADERS, ids=[expression for _, expression in HEADERS])
def test_a_header_notice_is_read_in_a_repository_without_licence_file(text, expression):
    found = judged({"a.c": text + "\nint x;\n"})["a.c"]
    assert (found["expression"], found["evidence_path"]) == (expression, "a.c")
    assert found["license_class"] != "no-license"


@pytest.mark.parametrize(
    "text",
    [
        '"""Check that the MIT license text is there."""',
        "LICENSES = ['MIT License', 'Apache License 2.0']",
        "license_key = read('BSD')",
        "// All rights reserved.",
        "// Copyright (c) 2020 Somebody",
        "permission = is_permitted(user)",
        "# Returns the licence of a distribution, or None",
    ],
)
def test_a_mention_is_no_notice(text):
    assert classes({"a.py": text}) == {"a.py": ("no-license", None)}


def test_confidential_code_is_not_kept_as_code_without_licence():
    text = "// Copyright 2021 Acme. All rights reserved. Confidential and proprietary.\n"
    assert judged({"a.c": text}, policy="stack-v2")["a.c"]["license_class"] == "non-permissive"


def test_third_party_notices_are_not_the_licence_of_the_repository():
    notices = "This software incorporates material from third parties.\n\n" + GPL
    files = {
        "package.json": '{"name": "typescript", "license": "Apache-2.0"}',
        "ThirdPartyNotices.txt": ("license", notices),
        "lib/a.js": "1",
    }
    assert classes(files)["lib/a.js"] == ("permissive", "Apache-2.0")
    assert classes(files, policy="stack-v1")["lib/a.js"] == ("permissive", "Apache-2.0")
    assert classes(files, policy="stack-v2")["lib/a.js"] == ("permissive", "Apache-2.0")
    assert classes({"LICENSE": MIT, "NOTICE": notices, "a.js": "1"})["a.js"] == ("permissive", "MIT")
    assert classes({"LICENSE": MIT, "LICENSE.numpy": GPL, "a.js": "1"})["a.js"] == ("permissive", "MIT")
    assert classes({"LICENSE.GPL": GPL, "LICENSE.MIT": MIT, "a.js": "1"})["a.js"] == ("non-permissive", "GPL-3.0-only")


def test_a_notice_alone_leaves_the_repository_unknown_and_holds_for_its_own_folder():
    assert judged({"THIRD-PARTY-NOTICES.txt": ("license", GPL), "a.js": "1"})["a.js"]["license_class"] == "unknown-license"
    files = {"LICENSE": MIT, "third_party/x/NOTICE": GPL, "third_party/x/a.c": "1", "b.c": "1"}
    assert classes(files) == {"third_party/x/a.c": ("non-permissive", "GPL-3.0-only"), "b.c": ("permissive", "MIT")}


def test_a_licence_in_one_source_file_holds_for_those_that_point_to_it():
    lua_h = "/*\n** lua.h\n** See Copyright Notice at the end of this file\n*/\n" + "int x;\n" * 900 + "/*\n" + MIT + "*/\n"
    files = {"src/lua.h": lua_h, "src/lapi.c": "/*\n** $Id: lapi.c $\n** See Copyright Notice in lua.h\n*/\nint y;", "Makefile": "all:"}
    found = judged(files)
    assert {path: each["license_class"] for path, each in found.items()} == {
        "src/lua.h": "no-license",
        "src/lapi.c": "permissive",
        "Makefile": "no-license",
    }
    assert found["src/lapi.c"]["evidence"] == "MIT (src/lua.h, line 906) by the header, line 3"
    assert (found["src/lapi.c"]["evidence_path"], found["src/lapi.c"]["evidence_line"]) == ("src/lua.h", 906)


def test_a_header_that_points_to_what_is_not_there_or_says_nothing_is_none():
    assert classes({"a.c": "/* See Copyright Notice in nowhere.h */", "b.c": "/* See the license in a.c */"}) == {
        "a.c": ("no-license", None),
        "b.c": ("no-license", None),
    }


def test_a_header_is_evidence_about_its_siblings():
    found = judged({"a.py": GPL_HEADER, "b.py": "x = 1", "v/c.py": GPL_HEADER}, vendored={"v/c.py"}, policy="stack-v2")
    assert (found["b.py"]["license_class"], found["b.py"]["rule"]) == ("non-permissive", "sibling-header")
    assert found["b.py"]["evidence"] == "GPL-3.0-or-later (a.py, line 1)"
    assert judged({"b.py": "x = 1", "v/c.py": GPL_HEADER}, vendored={"v/c.py"})["b.py"]["license_class"] == "no-license"
    permitted = judged({"a.py": "# SPDX-License-Identifier: MIT", "b.py": "x = 1"})["b.py"]
    assert (permitted["license_class"], permitted["evidence"]) == ("no-license", "other files: MIT (a.py, line 1)")


def test_a_header_that_contradicts_the_repository_says_so():
    found = judged({"LICENSE": MIT, "a.py": GPL_HEADER, "b.py": "x"})
    assert (found["a.py"]["rule"], found["a.py"]["license_class"], found["b.py"]["rule"]) == (
        "contradicting-header",
        "non-permissive",
        "permissive",
    )
    permissive = {"LICENSE": GPL, "a.py": "# SPDX-License-Identifier: MIT"}
    assert judged(permissive)["a.py"]["license_class"] == "permissive", "it decides for itself"
    strict = judged(permissive, policy="stack-v2")["a.py"]
    assert (strict["license_class"], strict["rule"]) == ("non-permissive", "contradicting-header")


@pytest.mark.parametrize("policy", ["permissive-only", "stack-v1", "stack-v2"])
def test_a_licence_file_that_cannot_be_read_is_unknown_never_none(policy):
    found = judged({"LICENSE": ("license", ""), "a.py": "x = 1"}, policy=policy)["a.py"]
    assert (found["license_class"], found["evidence"]) == ("unknown-license", "unread file (LICENSE, line 1)")


def test_licence_files_in_a_markup_are_read():
    page = "<html><head><style>p {}</style></head><body><p>" + GPL.replace("\n", "<br>\n") + "</p></body></html>"
    assert classes({"LICENSE.html": ("code", page), "a.py": "x = 1"})["a.py"] == ("non-permissive", "GPL-3.0-only")
    rich = "{\\rtf1\\ansi " + MIT.replace("\n", "\\par\n") + "}"
    assert classes({"License.rtf": ("code", rich), "a.py": "x = 1"})["a.py"] == ("permissive", "MIT")


def test_a_manifest_declares_its_folder_and_nested_ones_theirs():
    files = {
        "package.json": '{"license": "MIT"}',
        "a.js": "1",
        "packages/x/package.json": '{"license": "GPL-3.0"}',
        "packages/x/b.js": "1",
        "packages/y/c.js": "1",
    }
    found = judged(files)
    assert {p: each["license_class"] for p, each in found.items() if p.endswith(".js")} == {
        "a.js": "permissive",
        "packages/x/b.js": "non-permissive",
        "packages/y/c.js": "permissive",
    }
    assert found["packages/x/b.js"]["evidence"] == "GPL-3.0-only (packages/x/package.json, line 1)"
    assert found["a.js"]["detector"] == "package.json"


def test_a_manifest_may_point_to_the_file_that_holds_the_licence():
    pointing = '{"license": "SEE LICENSE IN terms/OURS.md"}'
    files = {"package.json": pointing, "terms/OURS.md": ("documentation", "Licensed under the Apache License, Version 2.0"), "a.js": "1"}
    assert classes(files)["a.js"] == ("permissive", "Apache-2.0")
    assert judged({"package.json": pointing, "a.js": "1"})["a.js"]["license_class"] == "unknown-license"
    assert classes({"package.json": '{"license": "SEE LICENSE IN LICENSE"}', "LICENSE": GPL, "a.js": "1"})["a.js"][0] == "non-permissive"


def test_stanzas_that_name_files_overrule_the_texts_of_their_folder():
    stanza = '[[annotations]]\npath = {}\nSPDX-License-Identifier = "{}"\n'
    reuse = "version = 1\n" + stanza.format('"**"', "MIT") + stanza.format('["gpl/**"]', "GPL-3.0-only")
    files = {
        "REUSE.toml": reuse,
        "LICENSES/MIT.txt": ("license", MIT),
        "LICENSES/GPL-3.0-only.txt": ("license", GPL),
        "a.c": "1",
        "gpl/b.c": "1",
    }
    found = judged(files)
    assert {p: found[p]["license_class"] for p in ("a.c", "gpl/b.c")} == {"a.c": "permissive", "gpl/b.c": "non-permissive"}
    assert found["gpl/b.c"]["evidence"] == "GPL-3.0-only (REUSE.toml, line 5)"
    dep5 = f"{DEP5}\n\nFiles: *\nLicense: Expat\n\nFiles: debian/*\nLicense: GPL-2+\n"
    found = judged({"debian/copyright": ("license", dep5), "a.c": "1", "debian/rules": "1"})
    assert {p: (e["license_class"], e["expression"]) for p, e in found.items()} == {
        "a.c": ("permissive", "MIT"),
        "debian/rules": ("non-permissive", "GPL-2.0-or-later"),
    }


def test_every_verdict_carries_its_evidence():
    found = judged({"LICENSE": "\n\n" + MIT, "a.py": "x = 1"})["a.py"]
    assert {name: found[name] for name in ("expression", "evidence_path", "evidence_line", "score", "detector", "rule")} == {
        "expression": "MIT",
        "evidence_path": "LICENSE",
        "evidence_line": 3,
        "score": 100.0,
        "detector": "text:MIT",
        "rule": "permissive",
    }


HOSTILE = [
    "",
    "\0\0\0 license",
    "\u202elicense\u202e: MIT",
    "{" * 100_000 + '"license"',
    '{"license": ' + "[" * 100_000,
    '<!DOCTYPE z [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">]><licenses><license><name>&b;</name></license></licenses>',
    "<!--" * 50_000 + "<license>" * 20_000,
    "license" + " " * 200_000,
    "[[annotations]]\n" * 5_000 + "license",
    "Format: copyright-format\n\n" + "Files: *\nLicense: GPL-2+\n\n" * 11_000,
]
NAMES = ["package.json", "META.json", "Cargo.toml", "pyproject.toml", "setup.cfg", "pom.xml", "x.nuspec", "x.cabal", "x.gemspec", "mix.exs"]
NAMES += ["REUSE.toml", "debian/copyright", "DESCRIPTION", "composer.json", "META.yml", "x.podspec", "dune-project", "PKG-INFO", "LICENSE"]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_manifests_and_licences_are_judged_like_any_other(content):
    for name in NAMES:
        found = judged({name: ("license" if name == "LICENSE" else "code", content), "a.py": "x = 1"})["a.py"]
        assert found["license_class"] in ("no-license", "unknown-license", "permissive", "non-permissive")
    assert judged({"pom.xml": HOSTILE[5], "a.py": "x"})["a.py"]["license_class"] == "unknown-license", "no entity is expanded"


def test_a_licence_file_of_ten_megabytes_is_read_in_part():
    assert classes({"LICENSE": GPL + "\n\nand\n" * 2_000_000, "a.py": "x"})["a.py"][1] == "GPL-3.0-only"
