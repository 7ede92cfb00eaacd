"""Languages of files: against the whole table, against a plain reading of the rules, and on hostile files."""

from __future__ import annotations

import functools
import json
from importlib.resources import files

import pyarrow as pa
import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.languages import identify as identifying
from starloom.tasks.kernels.languages import lists
from starloom.tasks.kernels.languages.content_model import content_model, is_installed, label_languages
from starloom.tasks.kernels.languages.first_lines import (
    interpreter_called_by,
    interpreter_of,
    language_of_modeline,
    languages_of_shebang,
)
from starloom.tasks.kernels.languages.linguist import TEMPLATES, known_languages, vocabulary
from starloom.tasks.kernels.languages.names import read_names, usual_language
from tests.sizes import examples

TABLE = json.loads(files("starloom.tasks.kernels.languages").joinpath("linguist.json").read_bytes())
LANGUAGES = TABLE["languages"]
needs_magika = pytest.mark.skipif(not is_installed(), reason="magika is not installed")


def identify(files: dict[str, bytes], guess=None):
    found, strategies = identifying.identify(pa.array(files, pa.string()), pa.array(files.values(), pa.large_binary()), guess)
    return dict(zip(files, zip(found, strategies, strict=True), strict=True))


@functools.cache
def claims(kind: str) -> dict[str, list[str]]:
    index: dict[str, list[str]] = {}
    for name, about in LANGUAGES.items():
        for key in {key.lower() if kind == "extensions" else key for key in about.get(kind, ())}:
            index.setdefault(key, []).append(name)
    return index


# ---- the table


def test_every_extension_that_one_language_claims_gives_that_language():
    sole = {
        f"dir.d/some_file{extension}": names[0]
        for extension, names in claims("extensions").items()
        if len(names) == 1 and not extension.endswith(tuple(TABLE["generic"]))
    }
    assert len(sole) > 1000
    found = identify(dict.fromkeys(sole, b"nothing\n"))
    assert {path: language for path, (language, _) in found.items()} == sole
    assert {path: usual_language(path) for path in sole} == sole


def test_every_file_name_that_one_language_claims_gives_that_language():
    sole = {f"a/{name}": names[0] for name, names in claims("filenames").items() if len(names) == 1}
    assert len(sole) > 300
    found = identify(dict.fromkeys(sole, b"nothing\n"))
    assert found == {path: (language, "filename") for path, language in sole.items()}
    assert {path: usual_language(path) for path in sole} == sole


def test_an_ambiguous_extension_gives_one_of_its_languages():
    shared = {f"a{extension}": names for extension, names in claims("extensions").items() if len(names) > 1}
    for path, (language, _) in identify(dict.fromkeys(shared, b"?\n")).items():
        answers = {
            name for extensions, rules in vocabulary().heuristics for rule in rules for name in rule.languages if path[1:] in extensions
        }
        assert language is None or language in {*shared[path], *answers, "Roff Manpage"}, path
        assert usual_language(path) in {*shared[path], "Roff Manpage"}, path


def test_every_interpreter_and_alias_gives_a_language_of_the_table():
    for interpreter, names in claims("interpreters").items():
        assert languages_of_shebang(f"#!/usr/bin/{interpreter}") == tuple(names) or interpreter[-2:].startswith("."), interpreter
    for alias, language in vocabulary().aliases.items():
        if not any(mark in alias for mark in ":; \t"):
            assert language_of_modeline(f"# -*- {alias} -*-\n") == language


def test_every_rule_can_be_read_by_both_engines():
    """Else a pattern of the table would raise on the first file that needs it."""
    patterns = [pattern for _, rules in vocabulary().heuristics for rule in rules for pattern in (*rule.every, *rule.none)]
    assert len(patterns) > 300
    for pattern in patterns:
        re2.compile(pattern)
        identifying._matches(pa.array([b""], pa.large_binary()), pattern)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("config.h.in", "C"),
        ("Makefile.in", "Makefile"),
        ("src/index.html.ep", "HTML"),
        ("settings.json.dist", "JSON"),
        (".env.example", "Dotenv"),
        ("x.PY", "Python"),
        ("aeson.cabal", "Cabal Config"),
        ("lib/A.pod", "Pod"),
        ("a.sln", "Microsoft Visual Studio Solution"),
        ("redis.conf", "INI"),
        ("nginx.conf", "Nginx"),
        ("a.b/c", None),
        ("foo.in", None),
        ("libz.so.1", None),
        ("a.", None),
        ("", None),
    ],
)
def test_a_name_alone(path, language):
    assert usual_language(path) == language


ENDINGS = sorted({*claims("extensions"), *TEMPLATES, ".1", ".so.1", ".unknown", "."})
PATHS = st.builds(
    lambda folder, stem, endings: folder + stem + "".join(endings),
    st.sampled_from(["", "a/", "a.py/b/", "/", "./"]),
    st.sampled_from(["a", "", "Makefile", "CMakeLists.txt", "Dockerfile", ".gitignore", "É", "a\nb", *sorted(claims("filenames"))]),
    st.lists(st.sampled_from(ENDINGS) | st.sampled_from([ending.upper() for ending in ENDINGS]), max_size=3),
)


@settings(max_examples=examples(200))
@given(st.lists(PATHS, max_size=30))
def test_columns_of_paths_are_read_as_single_paths_are(paths):
    assert read_names(pa.array(paths, pa.string())).usual() == [usual_language(path) for path in paths]


# ---- a plain reading of the rules, one file at a time


@functools.cache
def pattern_of(pattern: str):
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern.encode(), options)


def plainly(path: str, content: bytes) -> str | None:  # noqa: C901 - the strategies in a row
    """Say what Linguist's strategies say, in their order."""
    base = path.rpartition("/")[2]
    text = content.decode("latin-1")
    if language := language_of_modeline(text):
        return language
    names = [name for name, about in LANGUAGES.items() if base in about.get("filenames", ())]
    if len(names) == 1:
        return names[0]
    by_extension = claims("extensions")
    lowered = base.lower()
    tails = [lowered[at:] for at in range(len(lowered)) if lowered[at] == "." and at + 1 < len(lowered)]
    extension = next((tail for tail in tails if tail in by_extension), "")
    steps = [list(languages_of_shebang(text.split("\n")[0]))]
    if not lowered.endswith(tuple(TABLE["generic"])):
        steps.append(by_extension.get(extension, []))
    for step in steps:
        names = [name for name in names if name in step] or names if names else step
        if len(names) == 1:
            return names[0]
    if (not names or "XML" in names) and any("<?xml version=" in line for line in text.split("\n")[:2]):
        return "XML"
    manual = next((tail for tail in tails if re2.search(r"^\.([1-9]([a-z_][a-z_0-9]*)?|0p|n|man|mdoc)$", tail)), None)
    names = names or (["Roff Manpage", "Roff"] if manual and lowered.endswith(manual) else [])
    for group in TABLE["heuristics"]:
        if lowered.endswith(tuple(group["extensions"])):
            for rule in group["rules"]:
                held = [pattern_of(pattern).search(content) is not None for pattern in rule["every"]]
                broken = [pattern_of(pattern).search(content) is not None for pattern in rule["none"]]
                if all(held) and not any(broken):
                    if len(rule["languages"]) == 1:
                        return rule["languages"][0]
                    names = rule["languages"]
                    break
            break
    usual = usual_language(path)
    return (usual if usual in names else names[0]) if names else None


LINES = [
    *("#!/bin/sh", "#!/usr/bin/env -S python3 -u", "#!/usr/bin/perl -w", "#!/usr/bin/env node", "#!/usr/bin/swipl", "# vim: set ft=ruby :"),
    *(
        "/* -*- C++ -*- */",
        "// -*- mode: objc; tab-width: 4 -*-",
        '<?xml version="1.0"?>',
        "<TS version='2'>",
        "use strict;",
        ":- module(x).",
    ),
    *("#include <vector>", "template <class T>", "class A;", "@interface A : B", "#import <A/A.h>", "std::string a;", "int main() { }"),
    *(".TH LS 1", ".SH NAME", ".Dd May 1", "swagger: '2.0'", "openapi: 3.0.1", "\t- a: b", "---", "key = value", "[section]", "! comment"),
    *("SELECT * FROM a", "BEGIN;", "GO", "function x = f(y)", "% comment", "(* comment *)", "module A where", "let rec f = 1", "=> x"),
    *(
        "Require Import A.",
        "always @(posedge clk)",
        "fn main() {",
        "use std::io;",
        "procedure a;",
        "    x := 1",
        "",
        "\x00",
        "é",
        "a" * 300,
    ),
]
OF_RULES = sorted({extension for group in TABLE["heuristics"] for extension in group["extensions"]})
FILES = st.dictionaries(
    st.builds(
        "{}{}".format,
        st.sampled_from(["a", "d/b", "x.y"]),
        st.sampled_from(OF_RULES) | st.sampled_from([".h", ".m", ".pl", ".py", ".sql", ".yml", ".txt", "", ".1", ".res", ".ts"]),
    ),
    st.lists(st.sampled_from(LINES), max_size=8).map(lambda lines: "\n".join(lines).encode()),
    max_size=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(FILES)
def test_columns_of_files_are_identified_as_the_rules_say_one_by_one(files):
    ours = {path for path in files if path.lower().endswith((".conf", ".cls", ".cfg", ".sch", ".sls"))}
    found = identify(files)
    assert {path: found[path][0] for path in found if path not in ours} == {
        path: plainly(path, files[path]) for path in files if path not in ours
    }


@settings(max_examples=examples(40), deadline=None)
@given(FILES, st.randoms())
def test_a_file_s_language_does_not_depend_on_the_others(files, random):
    shuffled = list(files)
    random.shuffle(shuffled)
    assert identify(files) == identify({path: files[path] for path in shuffled})
    assert identify(files) == {path: identify({path: content})[path] for path, content in files.items()}


# ---- what files say of themselves


@pytest.mark.parametrize(
    ("line", "interpreter"),
    [
        ("#!/bin/sh", "sh"),
        ("#! /usr/bin/python3.11", "python3"),
        ("#!/usr/bin/env python", "python"),
        ("#!/usr/bin/env -S python3 -u", "python3"),
        ("#!/usr/bin/env -vS ruby -wKU", "ruby"),
        ("#!/usr/bin/env --split-string sed -f", "sed"),
        ("#!/usr/bin/env A=1 B=2 -i perl", "perl"),
        ("#!perl", "perl"),
        ("#! perl", "perl"),
        ("#!/usr/bin/osascript", "osascript"),
        ("#!/usr/bin/osascript -l JavaScript", None),
        ("#!", None),
        ("#!/usr/bin/env", None),
        ("import os", None),
        (" #!/bin/sh", None),
    ],
)
def test_the_interpreter_of_a_shebang(line, interpreter):
    assert interpreter_of(line) == interpreter


def test_a_shell_script_that_hands_over_to_another_program():
    assert interpreter_called_by('#!/bin/sh\n# \\\nexec tclsh "$0" "$@"\n') == "tclsh"
    assert identify({"run": b'#!/bin/sh\n# \\\nexec tclsh "$0" "$@"\n'}) == {"run": ("Tcl", "shebang")}
    assert identify({"run": b"#!/bin/sh\nexec ls\n"}) == {"run": ("Shell", "shebang")}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("# vim: ft=ruby", "Ruby"),
        ("# vim: set ft=ruby :", "Ruby"),
        ("# vim: set ft=ruby", None),  # Vim wants the colon after `set`
        ("# vim:ts=4:filetype=c++:", None),  # a word of letters alone
        ("// vim: noai:ts=4:sw=4:syntax=cpp", "C++"),
        ("# vi: ft=perl", "Perl"),
        ("# vim600: ft=perl", "Perl"),
        ("# vim<600: ft=perl", "Perl"),
        ("# ex: ft=perl", "Perl"),
        (r"# vim: titlestring=a\ ft=perl", None),
        ("# -*- ruby -*-", "Ruby"),
        ("# -*-ruby-*-", "Ruby"),
        ("// -*- mode: C++; tab-width: 4 -*-", "C++"),
        ("// -*- tab-width: 4; mode: c++ -*-", "C++"),
        ("# -*- coding: utf-8 -*-", None),
        ("# -*- mode: nonsense -*-", None),
        ("\n" * 4 + "# vim: ft=ruby\n" + "\n" * 9, "Ruby"),
        ("\n" * 5 + "# vim: ft=ruby\n" + "\n" * 9, None),
        ("\n" * 9 + "# vim: ft=ruby\n" + "\n" * 4, "Ruby"),
        ("\r\n" * 9 + "# vim: ft=ruby\r\n", "Ruby"),
        ("UseVimball\n# vim: ft=ruby\n", None),
    ],
)
def test_modelines(text, language):
    assert language_of_modeline(text) == language
    assert identify({"a.unknown": text.encode()})["a.unknown"] == (language, "modeline" if language else "none")


def test_modelines_of_long_files_are_looked_for_at_both_ends():
    middle = b"x = 1\n" * 5000
    assert identify(
        {
            "first.py": b"# -*- ruby -*-\n" + middle,
            "last.py": middle + b"# vim: ft=ruby\n",
            "middle.py": middle + b"# vim: ft=ruby\n" + middle,
        }
    ) == {"first.py": ("Ruby", "modeline"), "last.py": ("Ruby", "modeline"), "middle.py": ("Python", "extension")}


@pytest.mark.parametrize(
    ("path", "content", "language"),
    [
        ("a.h", b"int f(void);\n", "C"),
        ("a.h", b"class A {\npublic:\n};\n", "C++"),
        ("a.h", b"#import <UIKit/UIKit.h>\n@interface A : B\n@end\n", "Objective-C"),
        ("a.pl", b"use strict;\n", "Perl"),
        ("a.ts", b'<?xml version="1.0"?>\n<!DOCTYPE TS>\n<TS version="2.0">\n', "XML"),
        ("a.ts", b"export const a = 1\n", "TypeScript"),
        ("a.rs", b"use std::io;\n", "Rust"),
        ("a.m", b"function y = f(x)\n% y\n", "MATLAB"),
        ("a.sql", b"SELECT 1;\n", "SQL"),
        ("a.v", b"module top(input clk);\nalways @(posedge clk)\n", "Verilog"),
        ("script", b"#!/usr/bin/env node\n", "JavaScript"),
        ("a.xyz", b'<?xml version="1.0"?>\n', "XML"),
        ("a.conf", b"<VirtualHost *:80>\n</VirtualHost>\n", "ApacheConf"),
        ("a.conf", b"server {\n  listen 80;\n}\n", "Nginx"),
        ("a.conf", b"[main]\nx = 1\n", "INI"),
        ("hosts.txt", b"127.0.0.1 localhost\n", "Hosts File"),
        ("filters.txt", b"[Adblock Plus 2.0]\n", "Adblock Filter List"),
        ("a.1", b".TH LS 1\n.SH NAME\n", "Roff Manpage"),
        ("pkg-1.2.3", b"nothing\n", "Text"),
        ("a", b"nothing\n", None),
        ("a.py", b"", "Python"),
        ("a.h", b"", "C"),
    ],
)
def test_contents_decide_where_the_name_does_not(path, content, language):
    assert identify({path: content})[path][0] == language


HOSTILE = {
    "line.h": b"x" * 5_000_000,
    "nul.h": b"\0" * 40_000 + b"\nclass A;\n",
    "vim.unknown": b"# vim: " + b"a=:" * 600 + b"!",
    "backslashes.unknown": b"# vim: " + b"a=\\ :" * 300 + b"ft",
    "emacs.unknown": b"-*-" * 600 + b"mode:" * 50,
    "xml.unknown": b"<?xml " * 100_000,
    "spaces.m": b" " * 1_000_000 + b"\n" + b"\t" * 1_000_000,
    "hosts.txt": b"1.1.1.1" + b" a" * 100_000 + b"!",
    "adblock.txt": b"[AdBlock" + b" 1.1.1" * 20_000,
    "shebang": b"#!" + b" -" * 100_000,
    "env": b"#!/usr/bin/env " + b"A=" * 5_000 + b"\n",
    "latin.sql": b"\xff\xfe" * 10_000,
    "crs.h": b"\r" * 100_000,
    "parens.scm": b"(" * 500_000,
    "names" + ".h" * 5000: b"",
}


def test_hostile_files_end_and_have_the_language_of_their_name_or_none():
    found = {path: language for path, (language, _) in identify(HOSTILE).items()}
    assert found.pop("names" + ".h" * 5000) == "C"
    known = {"line.h": "C", "nul.h": "C++", "crs.h": "C", "spaces.m": "Objective-C", "parens.scm": "Scheme", "latin.sql": "SQL"}
    assert found == {**dict.fromkeys(found), **known, "hosts.txt": "Hosts File", "adblock.txt": "Text"}


# ---- by contents alone


@needs_magika
def test_the_model_sees_only_what_is_left_open_and_answers_among_what_is_left():
    asked: list[tuple[str, ...]] = []

    def guess(contents, candidates):
        asked.extend(candidates)
        return content_model().guess(contents, candidates)

    python = b"""import os
import sys


def main(argv):
    for name in os.listdir(argv[1]):
        print(name)


if __name__ == '__main__':
    main(sys.argv)
"""
    found = identify({"a.py": python, "tool": python, "a.h": python, "a.spec": python, "short": b"x"}, guess)
    assert found == {
        "a.py": ("Python", "extension"),
        "tool": ("Python", "content"),
        "a.h": ("C", "rules"),
        "a.spec": ("Python", "content"),
        "short": (None, "none"),
    }
    assert asked == [(), ("Python", "RPM Spec", "Ruby"), ()]


@needs_magika
@pytest.mark.slow
def test_the_model_answers_as_its_package_does():
    import magika

    texts = [
        b"",
        b"   \n",
        b"short",
        *(line.encode() * 40 for line in LINES),
        b"\n \t" * 3000 + b"def f(x):\n    return x\n" * 9 + b" " * 9000,
    ]
    peer = magika.Magika()
    expected = [peer.identify_bytes(text).output.label for text in texts]
    found = content_model().labels(pa.array(texts, pa.large_binary()))
    assert [{None: "txt", "randomtxt": "txt", "randombytes": "txt"}.get(label, label) for label in found] == [
        {"empty": "txt", "unknown": "txt"}.get(label, label) for label in expected
    ]


def test_the_model_s_types_are_languages_of_the_table():
    named = {language for languages in label_languages().values() for language in languages}
    assert named <= set(known_languages())


# ---- lists


def test_named_lists_have_the_published_sizes_and_known_names():
    sizes = {name: len(languages) for name, languages in lists.named_lists().items()}
    assert sizes == {"starcoder-86": 87, "starcoder2-17": 17, "starcoder2-605": 605}
    for languages in lists.named_lists().values():
        assert set(languages) <= set(known_languages())
        assert list(languages) == sorted(set(languages))
    assert set(lists.named_lists()["starcoder2-17"]) - set(lists.named_lists()["starcoder-86"]) == {"Kotlin", "Swift"} - {"Kotlin"}


def test_lists_and_languages_expand_together():
    assert lists.expand_languages(["starcoder2-17", "Zig", "Python"]) == sorted([*lists.named_lists()["starcoder2-17"], "Zig"])
    assert lists.expand_languages([]) == []
    with pytest.raises(KeyError, match="Pyton"):
        lists.expand_languages(["Pyton"])
