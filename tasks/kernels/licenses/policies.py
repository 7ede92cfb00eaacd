"""The named policies: which licences permit, and how much of the evidence counts, as data.

Sources: Blue Oak Council's license list, versions 9 (2022) and 15 (published under CC0-1.0); The Stack's data card and paper (Kocetkov
et al. 2022, arXiv 2211.15533); bigcode-project/the-stack-v2, the_stack/3_file_dataset/get_license_types.py, and Lozhkov et al. 2024,
arXiv 2402.19173, section 2.1 and appendix A.4.
"""

from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["permissive-only", "stack-v1", "stack-v2"]

_BLUE_OAK_9 = """
    0BSD AAL ADSL AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML AMPAS ANTLR-PD ANTLR-PD-fallback APAFML Adobe-2006 Afmparse
    Apache-1.0 Apache-1.1 Apache-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-1.0-cl8 Artistic-2.0 BSD-1-Clause BSD-2-Clause
    BSD-2-Clause-FreeBSD BSD-2-Clause-NetBSD BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause BSD-3-Clause-Attribution
    BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-3-Clause-Modification BSD-3-Clause-No-Nuclear-License-2014
    BSD-3-Clause-No-Nuclear-Warranty BSD-3-Clause-Open-MPI BSD-4-Clause BSD-4-Clause-Shortened BSD-4-Clause-UC BSD-Source-Code BSL-1.0
    Bahyph Barr Beerware BlueOak-1.0.0 Borceux CC0-1.0 CECILL-B CNRI-Jython CNRI-Python CNRI-Python-GPL-Compatible ClArtistic
    Condor-1.1 Crossword CrystalStacker Cube DOC DSDP ECL-1.0 ECL-2.0 EFL-1.0 EFL-2.0 Entessa FSFUL FSFULLR FTL Fair Giftware HPND
    HTMLTIDY IBM-pibs ICU IJG ISC ImageMagick Info-ZIP Intel JasPer-2.0 LPL-1.0 LPL-1.02 LPPL-1.3c Leptonica Libpng Linux-OpenIB MIT
    MIT-0 MIT-CMU MIT-Modern-Variant MIT-advertising MIT-enna MIT-feh MIT-open-group MITNFA MS-PL MTLL MirOS MulanPSL-1.0 MulanPSL-2.0
    Multics Mup NASA-1.3 NBPL-1.0 NCSA NLPL NRL NTP Naumen Net-SNMP NetCDF Newsletr OGTSL OLDAP-1.1 OLDAP-1.2 OLDAP-1.3 OLDAP-1.4
    OLDAP-2.0 OLDAP-2.0.1 OLDAP-2.1 OLDAP-2.2 OLDAP-2.2.1 OLDAP-2.2.2 OLDAP-2.3 OLDAP-2.4 OLDAP-2.5 OLDAP-2.6 OLDAP-2.7 OLDAP-2.8 OML
    OpenSSL PHP-3.0 PHP-3.01 PSF-2.0 Plexus PostgreSQL Python-2.0 Qhull RSA-MD Rdisc Ruby SGI-B-2.0 SMLNJ SWL Saxpath Spencer-86
    Spencer-94 Spencer-99 TCL TCP-wrappers TU-Berlin-1.0 TU-Berlin-2.0 UPL-1.0 Unicode-DFS-2015 Unicode-DFS-2016 Unlicense VSL-1.0 Vim
    W3C W3C-19980720 W3C-20150513 WTFPL Wsuipa X11 XFree86-1.1 Xerox Xnet ZPL-1.1 ZPL-2.0 ZPL-2.1 Zed Zend-2.0 Zlib blessing
    bzip2-1.0.5 bzip2-1.0.6 curl diffmark eGenix libpng-2.0 libtiff mpich2 psutils xinetd xpp zlib-acknowledgement
"""
BLUE_OAK_9 = _BLUE_OAK_9.split()
"""The 185 ids of version 9, the model licence to the lead ones: the list of the year in which The Stack v1.1 chose its 193."""

_SINCE_BLUE_OAK_9 = """
    BSD-2-Clause-Darwin BSD-3-Clause-HP BSD-3-Clause-Sun CFITSIO Clips FSFAP GLWTPL HPND-Fenneberg-Livingston HPND-export-US
    HPND-sell-regexpr IJG-short Intel-ACPI Jam Kazlib LZMA-SDK-9.22 MIT-Wu MIT-testregex McPhee-slideshow NAIST-2003 NICTA-1.0
    NIST-Software NTP-0 OFFIS OGL-Canada-2.0 SHL-0.5 SSH-short SunPro Symlinks UCAR UnixCrypt XSkat Xfig bcrypt-Solar-Designer
    check-cvs fwlw hdparm python-ldap snprintf xlock
"""
BLUE_OAK_15 = [*BLUE_OAK_9, *_SINCE_BLUE_OAK_9.split()]
"""The 224 ids of version 15."""

_STACK_V1_0 = """
    MIT-0 MIT MIT-feh Apache-2.0 BSD-3-Clause BSD-3-Clause-Clear BSD-3-Clause-No-Nuclear-License-2014 BSD-2-Clause CC0-1.0 Unlicense ISC
    Artistic-2.0 ECL-2.0 SHL-0.51
"""
STACK_V1_0 = _STACK_V1_0.split()
"""The ids of The Stack v1.0, without MPL, EPL and LGPL, which v1.1 took out as weak copyleft."""

PERMISSIVE_CATEGORIES = frozenset({"Permissive", "Public Domain"})
"""Of ScanCode's LicenseDB."""

UNKNOWN_CATEGORIES = frozenset({"Unstated License"})
"""Of ScanCode's LicenseDB: a text speaks of a licence, and does not say which."""

NEUTRAL = frozenset(
    f"LicenseRef-scancode-{name}"
    for name in (
        "dco-1.1",
        "generic-cla",
        "google-cla",
        "jetty-ccla-1.1",
        "newton-king-cla",
        "generic-exception",
        "generic-export-compliance",
        "generic-tos",
        "generic-trademark",
        "warranty-disclaimer",
    )
)
"""The ten ids that change nothing about a licence beside them (get_license_types.py)."""

UNKNOWN_REFERENCE = "LicenseRef-scancode-unknown-license-reference"
"""A sentence that points to a licence elsewhere: it says nothing where that one is known."""


@dataclass(frozen=True)
class PolicyTable:
    """A policy in data."""

    ids: frozenset[str]
    """SPDX ids that permit."""
    categories: frozenset[str]
    """Categories of ScanCode's LicenseDB that permit."""
    weighs: Literal["nearest", "repository", "union"]
    """`nearest`: the folders above a file, a declaration before the texts beside it; `repository`: every licence file of the
    repository; `union`: the ids of all licence files above a file, by The Stack v2's table."""
    headers: Literal["decide", "strictest"]
    """What a file says of itself decides for it, or counts only where it permits less than what the repository says."""
    siblings: bool
    """Whether headers count for the other files of a repository that says nothing else."""


POLICIES: dict[PolicyName, PolicyTable] = {
    "permissive-only": PolicyTable(frozenset(BLUE_OAK_15), PERMISSIVE_CATEGORIES, "nearest", "decide", siblings=True),
    "stack-v1": PolicyTable(frozenset([*BLUE_OAK_9, *STACK_V1_0]), frozenset(), "repository", "strictest", siblings=True),
    "stack-v2": PolicyTable(frozenset(BLUE_OAK_15), PERMISSIVE_CATEGORIES, "union", "strictest", siblings=True),
}
