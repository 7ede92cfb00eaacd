"""Licences that manifests declare, read without running, expanding or trusting them."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.licenses import deb822, manifests, names, roles
from starloom.tasks.kernels.licenses.phrases import RESTRICTED

PERL = "Artistic-1.0-Perl OR GPL-1.0-or-later"
POM = "<project><!-- <licenses><license><name>GPL</name></license></licenses> -->\n<licenses>\n{}</licenses></project>"
ENTRY = "<license><name>{}</name><url>{}</url></license>\n"

CASES = [
    ("package.json", '{"license": "MIT"}', [("MIT", 1)]),
    ("package.json", '{\n "name": "x",\n "license": {"type": "BSD-3-Clause", "url": "u"}}', [("BSD-3-Clause", 3)]),
    ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', [("(MIT) OR (GPL-2.0-only)", 1)]),
    ("package.json", '{"license": "UNLICENSED"}', [(RESTRICTED, 1)]),
    ("package.json", '{"license": "SEE LICENSE IN EULA.txt"}', [(None, 1)]),
    ("package.json", '{"name": "x"}', []),
    ("package.json", '{"license": "Mine"}', [(None, 1)]),
    ("package.json", '{"license": "MIT",', [("MIT", 1)]),
    ("package.json", '{"license": 7', [(None, 1)]),
    ("composer.json", '{"license": ["LGPL-2.1-only", "GPL-3.0-or-later"]}', [("(LGPL-2.1-only) OR (GPL-3.0-or-later)", 1)]),
    ("composer.json", '{"license": "proprietary"}', [(RESTRICTED, 1)]),
    ("Cargo.toml", '[package]\nname = "x"\nlicense = "MIT/Apache-2.0"', [("MIT OR Apache-2.0", 3)]),
    ("Cargo.toml", '[workspace.package]\nlicense = "ISC"', [("ISC", 2)]),
    ("Cargo.toml", '[package]\nlicense-file = "COPYING"', [(None, 2)]),
    (
        "pyproject.toml",
        '[project]\nname = "x"\nlicense = "MIT AND (Apache-2.0 OR BSD-2-Clause)"',
        [("MIT AND (Apache-2.0 OR BSD-2-Clause)", 3)],
    ),
    ("pyproject.toml", '[project]\nlicense = {text = "GPL-3.0-or-later"}', [("GPL-3.0-or-later", 2)]),
    ("pyproject.toml", '[project]\nlicense = {file = "LICENSE"}', [(None, 2)]),
    ("pyproject.toml", '[project]\nclassifiers = [\n "License :: OSI Approved :: BSD License"]', [("BSD-3-Clause", 2)]),
    ("pyproject.toml", '[tool.poetry]\nlicense = "Apache-2.0"', [("Apache-2.0", 2)]),
    ("setup.cfg", "[metadata]\nname = x\nlicense = BSD 2-Clause License", [("BSD-2-Clause", 3)]),
    ("setup.cfg", "[metadata]\nclassifiers =\n    License :: OSI Approved :: MIT License", [("MIT", 3)]),
    ("setup.py", "setup(\n    name='x',\n    license='Apache 2.0',\n)", [("Apache-2.0", 3)]),
    ("PKG-INFO", "Name: x\nLicense-Expression: MIT OR Apache-2.0\n\nLicense: GPL", [("MIT OR Apache-2.0", 2)]),
    ("x.cabal", "name: x\nlicense:        BSD3\nlicense-file: LICENSE", [("BSD-3-Clause", 2)]),
    ("x.cabal", "License: GPL-3", [("GPL-3.0-only", 1)]),
    ("x.cabal", "license: AllRightsReserved", [(RESTRICTED, 1)]),
    ("pom.xml", POM.format(ENTRY.format("Eclipse Public License 1.0", "http://www.eclipse.org/legal/epl-v10.html")), [("EPL-1.0", 2)]),
    ("pom.xml", POM.format(ENTRY.format("Ours", "http://www.apache.org/licenses/LICENSE-2.0.txt")), [("Apache-2.0", 2)]),
    ("pom.xml", POM.format(ENTRY.format("MIT License", "") + ENTRY.format("GPLv2", "")), [("(MIT) OR (GPL-2.0-only)", 2)]),
    ("pom.xml", "<project><license/></project>", []),
    ("x.nuspec", '<package>\n<license type="expression">MIT</license></package>', [("MIT", 2)]),
    ("x.nuspec", "<licenseUrl>https://licenses.nuget.org/Apache-2.0</licenseUrl>", [("Apache-2.0", 1)]),
    ("META.json", '{"license": ["perl_5"]}', [(PERL, 1)]),
    ("META.json", '{"license": ["artistic_2"]}', [("Artistic-2.0", 1)]),
    ("META.yml", "name: x\nlicense: perl", [(PERL, 2)]),
    ("x.gemspec", "Gem::Specification.new do |s|\n  s.license = 'MIT'\nend", [("MIT", 2)]),
    ("x.gemspec", "s.licenses = ['MIT', 'Ruby']", [("(MIT) AND (Ruby)", 1)]),
    ("x.podspec", "s.license = { :type => 'MIT', :file => 'LICENSE' }", [("MIT", 1)]),
    ("mix.exs", 'def package do\n  [licenses: ["Apache-2.0"], links: %{}]', [("Apache-2.0", 2)]),
    ("x.rockspec", 'description = {\n  license = "MIT/X11"\n}', [("MIT", 2)]),
    ("x.opam", 'license: "ISC"', [("ISC", 1)]),
    ("dune-project", "(lang dune 3.0)\n(license LGPL-2.1-only)", [("LGPL-2.1-only", 2)]),
    ("DESCRIPTION", "Package: x\nLicense: GPL (>= 2) | MIT + file LICENSE", [("GPL-2.0-or-later OR MIT", 2)]),
    ("DESCRIPTION", "A book about a license: GPL", []),
    ("go.mod", "module license.example/x", []),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(CASES)])
def test_a_manifest_declares(name, text, expected):
    assert [(each.expression, each.line) for each in manifests.read_manifest(f"a/b/{name}", text)] == expected


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("package.json", ""),
        ("a/b/Cargo.toml", "a/b/"),
        ("debian/copyright", ""),
        ("x/debian/copyright", "x/"),
        (".reuse/dep5", ""),
        ("a/x.py", None),
    ],
)
def test_a_manifest_speaks_for_its_folder(path, scope):
    assert manifests.is_manifest(path) == (scope is not None)
    assert scope is None or manifests.manifest_scope(path) == scope


def test_a_manifest_over_a_megabyte_is_unknown():
    assert [each.expression for each in manifests.read_manifest("package.json", '{"license": "MIT"}' + " " * 1_000_000)] == [None]


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Expat", "MIT"),
        ("GPL-2+ or Artistic", "GPL-2.0-or-later OR Artistic-1.0"),
        ("GPL-1+ | Artistic-2.0", "GPL-1.0-or-later OR Artistic-2.0"),
        ("MIT and BSD-3-clause", "MIT AND BSD-3-Clause"),
        ("GPL-2+ with OpenSSL exception", "GPL-2.0-or-later"),
        ("Apache-2", "Apache-2.0"),
        ("GFDL-1.3-no-invariants", None),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("public-domain", "LicenseRef-scancode-public-domain"),
        ("other-custom", None),
        ("GPL-2+ and other-custom", None),
    ],
)
def test_short_names_of_debian(short, expected):
    assert names.debian_expression(short) == expected


@given(st.text("ab/*?.\\", max_size=8), st.text("ab/.", max_size=8))
def test_patterns_of_files_are_those_of_the_shell_across_folders(pattern, path):
    if "\\" in pattern:
        deb822.matches(path, [pattern])  # an escape: whatever it says, without an error
    else:
        plain = re.sub(r"\*+", "*", pattern.removeprefix("./"))
        assert deb822.matches(path, [pattern]) == fnmatch.fnmatchcase(path, plain)


@pytest.mark.parametrize(
    ("path", "text", "beside", "role"),
    [
        ("LICENSE", "", [], "text"),
        ("COPYING.LESSER", "", ["COPYING"], "text"),
        ("LICENSE-MIT", "", ["LICENSE"], "text"),
        ("LICENSE.numpy", "", ["LICENSE"], "notice"),
        ("LICENSE.numpy", "", [], "text"),
        ("NUMPY_LICENSE", "", ["LICENSE.txt"], "notice"),
        ("NOTICE.txt", "", [], "notice"),
        ("ThirdPartyNoticeText.txt", "", [], "notice"),
        ("THIRD-PARTY-LICENSES", "", [], "notice"),
        ("LICENSES_bundled.txt", "", [], "notice"),
        ("LICENSE.dependencies", "", [], "notice"),
        ("LICENSES/GPL-3.0-only.txt", "", [], "notice"),
        ("licenses/mit.txt", "", [], "text"),
        ("mit.txt", "This project uses the following third-party libraries", [], "notice"),
    ],
)
def test_evidence_files_are_of_the_folder_or_of_third_parties(path, text, beside, role):
    assert roles.role_of(path, text, [*beside, path]) == role
