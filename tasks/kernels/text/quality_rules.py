"""The published rules on the quality of code, as data: limits on signals, by language and extension, each with its source.

A rule drops what lies below `min` or above `max`. `languages` and `except_languages` name languages, or an extension of one:
"GLSL/fsh". What a signal is: `starloom.tasks.quality_filter`, and the kernels beside this file.
"""

from __future__ import annotations

from typing import Any

_LONG = [
    "Assembly/asm",
    "Bluespec",
    "BibTeX",
    "CMake/cmake",
    "JSON",
    "Markdown",
    "MATLAB",
    "R/r",
    "RMarkdown",
    "reStructuredText",
    "SQL/sql",
]
_LONG += ["PLSQL/sql", "PLpgSQL/sql", "Stata/ado", "Stata/do", "TeX", "VBA/frm", "Visual Basic 6.0/frm", "Wolfram Language/ma"]
_LONG += ["Wolfram Language/nb"]
"""Where `Long_line_threshold` is `remove`, empty or a note; of whole languages where it is so for all their extensions that were kept."""
_ANY_ALNUM = ["SAS", "VBA/frm", "Visual Basic 6.0/frm", "Wolfram Language/ma", "Wolfram Language/nb"]
_ALPHA = ["Ada/ads", "Augeas/aug", "GLSL/fp", "Maple/mpl", "MATLAB/matlab", "Scheme/scm", "Scheme/sld", "Scheme/sps", "SQL/prc"]
_ALPHA += ["SystemVerilog/sv", "VBA/bas", "VHDL/vhd", "Visual Basic 6.0/bas", "Wolfram Language/ma", "Wolfram Language/nb"]
_ALPHA += ["Wolfram Language/wl", "Yacc/y"]

_V2_LONG = ["HTML", "JSON", "Markdown", "Roff", "Roff Manpage", "SMT", "TeX", "Text", "XML"]
_V2_SHORT = ["Graphviz (DOT)", "JSON", "Text", "Web Ontology Language", "YAML"]
_V2_DIGITS = ["Motorola 68K Assembly", "WebAssembly"]

PRESETS: dict[str, tuple[dict[str, Any], ...]] = {
    # bigcode-dataset preprocessing/filtering.py, its thresholds from preprocessing/visual_inspection.csv. What was not inspected has the
    # thresholds of nearly all that was. `outside_starcoder`, which leaves nothing but those languages, is for a recipe to add.
    "starcoder": (
        {"signal": "excluded_by_starcoder", "max": 0},
        {"signal": "max_line_length", "max": 500, "languages": ["GLSL/fsh"]},
        {"signal": "max_line_length", "max": 1000, "except_languages": _LONG},
        {"signal": "avg_line_length", "max": 100, "except_languages": _LONG},
        {"signal": "alnum_fraction", "min": 0.25, "except_languages": _ANY_ALNUM},
        {"signal": "alpha_fraction", "min": 0.25, "languages": _ALPHA},
        {"signal": "alpha_fraction", "min": 0.5, "languages": ["JSON", "YAML"]},
        {"signal": "num_chars", "min": 50, "max": 5000, "languages": ["JSON", "YAML"]},
        {"signal": "has_xml_declaration", "max": 0, "except_languages": ["XSLT"]},
        # upstream keeps more than 0.2 and more than 100; of a number of characters, more than 100 is 101 and more
        {"signal": "visible_chars", "min": 101, "languages": ["HTML"]},
        {"signal": "visible_fraction", "min": 0.2, "languages": ["HTML"]},
    ),
    # arXiv 2402.19173 §2.1; extensions from the-stack-v2 pull_requests_and_issues/language_labels.csv.
    "starcoder2": (
        {"signal": "excluded_by_starcoder2", "max": 0},
        {"signal": "num_lines", "max": 100_000},
        {"signal": "max_line_length", "max": 100_000},
        {"signal": "max_line_length", "max": 1000, "except_languages": _V2_LONG},
        {"signal": "avg_line_length", "max": 100, "except_languages": _V2_LONG},
        {"signal": "is_generated", "max": 0},
        {"signal": "alpha_fraction", "min": 0.25, "except_languages": _V2_DIGITS},
        {"signal": "alnum_fraction", "min": 0.25, "languages": _V2_DIGITS},
        {"signal": "max_base64_length", "max": 1024},
        {"signal": "max_hex_length", "max": 1024},
        {"signal": "max_unicode_escape_length", "max": 1024},
        {"signal": "encoded_fraction", "max": 0.5},
        {"signal": "num_lines", "max": 512, "languages": _V2_SHORT},
        {"signal": "visible_chars", "min": 100, "languages": ["HTML"]},
        {"signal": "visible_fraction", "min": 0.2, "languages": ["HTML"]},
        {"signal": "has_known_name", "min": 1, "languages": ["Text"]},
    ),
}
"""Name → what `rules` stands for."""

SETS: dict[str, tuple[dict[str, Any], ...]] = {
    # SantaCoder (Ben Allal et al. 2023, arXiv 2301.03988 §5) and preprocessing/arguments.py: 0.01 < ratio < 0.8
    "santacoder_comments": ({"signal": "comment_fraction", "min": 0.01, "max": 0.8, "languages": ["Java", "JavaScript", "Python"]},),
    # the same: repositories with at least 5 stars
    "santacoder_stars": ({"signal": "stars", "min": 5},),
    # OpenCoder (Huang et al. 2024, arXiv 2411.04905), opc_data_filtering pipeline/code_filter_config.py, `others`
    "opencoder_repetition": (
        {"signal": "duplicate_line_fraction", "max": 0.7},
        {"signal": "top_2gram_fraction", "max": 0.2},
        {"signal": "top_3gram_fraction", "max": 0.18},
        {"signal": "top_4gram_fraction", "max": 0.16},
        {"signal": "duplicate_5gram_fraction", "max": 0.8},
        {"signal": "duplicate_6gram_fraction", "max": 0.7},
        {"signal": "duplicate_7gram_fraction", "max": 0.7},
        {"signal": "duplicate_8gram_fraction", "max": 0.7},
        {"signal": "duplicate_9gram_fraction", "max": 0.7},
        {"signal": "duplicate_10gram_fraction", "max": 0.6},
    ),
    "no_malware": ({"signal": "is_malware", "max": 0},),
    "starcoder_languages": ({"signal": "outside_starcoder", "max": 0},),
    "starcoder2_languages": ({"signal": "outside_starcoder2", "max": 0},),
}
"""Name → rules that a recipe may add."""

TEXT_NAMES = ("readme", "notes", "todo", "description", "cmakelists")
"""StarCoder2 (arXiv 2402.19173 §2.1) kept Text files of these names without their extension, and those with "requirement" in theirs."""
