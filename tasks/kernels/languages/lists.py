"""Named lists of languages: those that StarCoder and StarCoder2 were trained on, in Linguist's names of today."""

from __future__ import annotations

import functools

from starloom.tasks.kernels.languages.linguist import known_languages

_STARCODER = """
Ada|Agda|Alloy|ANTLR|AppleScript|Assembly|Augeas|Awk|Batchfile|Bluespec|C|C#|C++|Clojure|CMake|CoffeeScript|Common Lisp|CSS|
Cuda|Dart|Dockerfile|Elixir|Elm|Emacs Lisp|Erlang|F#|Fortran|GLSL|Go|Groovy|Haskell|HTML|Idris|Isabelle|Java|Java Server Pages|
JavaScript|JSON|Julia|Kotlin|Lean|Literate Agda|Literate CoffeeScript|Literate Haskell|Lua|Makefile|Markdown|MATLAB|OCaml|
Pascal|Perl|PHP|PowerShell|Prolog|Protocol Buffer|Python|R|Racket|reStructuredText|RMarkdown|Ruby|Rust|SAS|Scala|Scheme|Shell|
Smalltalk|Solidity|SPARQL|SQL|Stan|Standard ML|Stata|SystemVerilog|Tcl|Tcsh|TeX|Thrift|TypeScript|Verilog|VHDL|
Visual Basic .NET|Wolfram Language|XSLT|Yacc|YAML|Zig
"""
"""StarCoder's 86 languages and the data formats JSON and YAML (bigcode-dataset preprocessing/visual_inspection.csv, the 88
names whose column Include is 1, less Maple, which Linguist does not know). Swift is not among them; Mathematica is Wolfram Language."""

_STARCODER2_SMALL = "C|C#|C++|Go|Java|JavaScript|Kotlin|Lua|PHP|Python|R|Ruby|Rust|SQL|Shell|Swift|TypeScript"
"""The 17 languages of StarCoder2-3B and 7B (arXiv 2402.19173 §4, the-stack-v2-train-smol)."""

_STARCODER2_LARGE = """
1C Enterprise|2-Dimensional Array|4D|ABAP|ABAP CDS|ABNF|ActionScript|Ada|Adobe Font Metrics|Agda|AIDL|AL|Alloy|Alpine Abuild|
Altium Designer|AMPL|AngelScript|Ant Build System|Antlers|ANTLR|ApacheConf|Apex|API Blueprint|APL|Apollo Guidance Computer|
AppleScript|Arc|AsciiDoc|ASL|ASN.1|ASP.NET|Assembly|Astro|Asymptote|ATS|Augeas|AutoHotkey|AutoIt|Avro IDL|Awk|Ballerina|BASIC|
Batchfile|Beef|Befunge|Berry|BibTeX|Bikeshed|Bison|BitBake|Blade|BlitzBasic|BlitzMax|Bluespec|Boo|Brainfuck|BrighterScript|
Brightscript|Browserslist|C|C#|C++|C-ObjDump|C2hs Haskell|Cabal Config|Cadence|Cairo|CameLIGO|CAP CDS|Cap'n Proto|CartoCSS|
Ceylon|Chapel|Charity|CIL|Cirru|Clarion|Clarity|Classic ASP|Clean|Click|CLIPS|Clojure|Closure Templates|
Cloud Firestore Security Rules|CMake|COBOL|CodeQL|CoffeeScript|ColdFusion|ColdFusion CFC|Common Lisp|Component Pascal|Cool|
Creole|Crystal|CSON|Csound|Csound Document|Csound Score|CSS|Cuda|CUE|cURL Config|Curry|CWeb|Cycript|Cython|D|Dafny|Darcs Patch|
Dart|DataWeave|Debian Package Control File|DenizenScript|Dhall|dircolors|DM|DNS Zone|Dockerfile|Dogescript|Dylan|E|Eagle|
Earthly|Easybuild|EBNF|eC|Ecere Projects|ECL|ECLiPSe|EditorConfig|Edje Data Collection|Eiffel|EJS|Elixir|Elm|Elvish|Emacs Lisp|
EmberScript|EQ|Erlang|Euphoria|F#|F*|Fancy|Fantom|Faust|Fennel|FIGlet Font|Filebench WML|Filterscript|fish|Fluent|FLUX|
Formatted|Forth|Fortran|Fortran Free Form|FreeBASIC|FreeMarker|Frege|Futhark|G-code|Game Maker Language|GAML|GAMS|GAP|
GCC Machine Description|GDB|GDScript|GEDCOM|Gemini|Genero 4gl|Genero per|Genie|Genshi|Gentoo Ebuild|Gentoo Eclass|
Gettext Catalog|Gherkin|Git Attributes|Git Config|Git Revision List|Gleam|GLSL|Glyph|GN|Gnuplot|Go|Go Module|Golo|Gosu|Grace|
Gradle|Grammatical Framework|Graph Modeling Language|GraphQL|Graphviz (DOT)|Groovy|Groovy Server Pages|GSC|Hack|Haml|Handlebars|
HAProxy|Harbour|Haskell|Haxe|HCL|HiveQL|HLSL|HOCON|HolyC|hoon|HTML|HTML+ECR|HTML+EEX|HTML+ERB|HTML+PHP|HTML+Razor|HTTP|HXML|Hy|
HyPhy|IDL|Idris|IGOR Pro|ImageJ Macro|Inform 7|INI|Inno Setup|Io|Ioke|IRC log|Isabelle|Isabelle ROOT|J|Janet|Jasmin|Java|
Java Server Pages|JavaScript|JavaScript+ERB|JetBrains MPS|JFlex|Jinja|Jison|Jison Lex|Jolie|jq|JSON|JSON with Comments|JSON5|
JSONiq|Jsonnet|Julia|Jupyter Notebook|Kaitai Struct|KakouneScript|KiCad Legacy Layout|KiCad Schematic|Kit|Kotlin|KRL|Kusto|
kvlang|LabVIEW|Lark|Lasso|Latte|Lean|Less|Lex|LFE|LigoLANG|LilyPond|Limbo|Linker Script|Liquid|Literate Agda|
Literate CoffeeScript|Literate Haskell|LiveScript|LLVM|Logos|Logtalk|LOLCODE|LookML|LoomScript|LSL|LTspice Symbol|Lua|M|M4|
M4Sugar|Macaulay2|Makefile|Mako|Markdown|Marko|Mask|MATLAB|Maven POM|Max|MAXScript|mcfunction|Mercury|Meson|Metal|
Microsoft Developer Studio Project|Microsoft Visual Studio Solution|MiniD|MiniYAML|Mint|Mirah|MLIR|Modelica|Modula-2|Modula-3|
Module Management System|Monkey|Monkey C|Moocode|MoonScript|Motoko|Motorola 68K Assembly|Move|MQL4|MQL5|MTML|MUF|mupad|Muse|
Mustache|Myghty|nanorc|Nasal|NASL|NCL|Nearley|Nemerle|NEON|NetLinx|NetLinx+ERB|NetLogo|NewLisp|Nextflow|Nginx|Nim|Ninja|Nit|Nix|
NL|NPM Config|NSIS|Nu|NumPy|NWScript|ObjDump|Object Data Instance Notation|Objective-C|Objective-C++|Objective-J|ObjectScript|
OCaml|Odin|Omgrofl|ooc|Opa|Opal|Open Policy Agent|OpenCL|OpenEdge ABL|OpenQASM|OpenRC runscript|OpenSCAD|OpenStep Property List|
OpenType Feature File|Org|Ox|Oxygene|Oz|P4|Pan|Papyrus|Parrot|Parrot Assembly|Parrot Internal Representation|Pascal|Pawn|PEG.js|
Pep8|Perl|PHP|Pic|PicoLisp|PigLatin|Pike|PlantUML|PLpgSQL|PLSQL|Pod|Pod 6|PogoScript|Pony|Portugol|PostCSS|POV-Ray SDL|
PowerBuilder|PowerShell|Prisma|Processing|Procfile|Proguard|Prolog|Promela|Propeller Spin|Protocol Buffer|
Protocol Buffer Text Format|Pug|Puppet|Pure Data|PureBasic|PureScript|Python|Python traceback|q|Q#|QMake|QML|Qt Script|Quake|R|
Racket|Ragel|Raku|RAML|Rascal|Raw token data|RDoc|Readline Config|REALbasic|Reason|ReasonLIGO|Rebol|Record Jar|Red|Redcode|
Redirect Rules|Regular Expression|Ren'Py|RenderScript|reStructuredText|REXX|Ring|Riot|RMarkdown|RobotFramework|Rocq Prover|
Robots Exclusion Rules|Roff|Roff Manpage|Rouge|RouterOS Script|RPC|RPGLE|RPM Spec|Ruby|
RUNOFF|Rust|Sage|SaltStack|SAS|Sass|Scala|Scaml|Scheme|Scilab|SCSS|
sed|Self|SELinux Policy|ShaderLab|Shell|ShellCheck Config|ShellSession|Shen|Sieve|Singularity|Slash|Slice|Slim|Smali|Smalltalk|
Smarty|SMT|Solidity|Soong|SourcePawn|SPARQL|Spline Font Database|SQF|SQL|SQLPL|Squirrel|SRecode Template|SSH Config|Stan|
Standard ML|STAR|Starlark|Stata|STL|STON|StringTemplate|Stylus|SugarSS|SuperCollider|Svelte|Swift|SystemVerilog|Talon|Tcl|Tcsh|
Tea|Terra|TeX|Texinfo|Text|Textile|TextMate Properties|Thrift|TI Program|TLA|TOML|TSQL|TSX|Turing|Twig|TXL|Type Language|
TypeScript|Unified Parallel C|Unix Assembly|Uno|UnrealScript|UrWeb|V|Vala|Valve Data Format|VBA|VBScript|VCL|
Velocity Template Language|Verilog|VHDL|Vim Help File|Vim Script|Vim Snippet|Visual Basic .NET|Volt|Vue|Vyper|WDL|
Web Ontology Language|WebAssembly|WebIDL|Wget Config|Whiley|Wikitext|Win32 Message File|wisp|Witcher Script|Wolfram Language|
Wollok|Wren|X Font Directory Index|X PixMap|X10|xBase|XC|XCompose|XML|Xojo|Xonsh|XPages|XProc|XQuery|XS|XSLT|Xtend|Yacc|YAML|
YANG|YARA|YASnippet|Yul|ZAP|Zeek|ZenScript|Zephir|Zig|ZIL|Zimpl
"""
"""The languages of StarCoder2-15B: those with an extension that inspection kept, 605 (the-stack-v2,
pull_requests_and_issues/language_labels.csv). The paper counts 619 (§2.1) and publishes no list of them."""


@functools.cache
def named_lists() -> dict[str, tuple[str, ...]]:
    """Return the lists by name: starcoder-86, starcoder2-17 and starcoder2-605, each sorted."""
    texts = {"starcoder-86": _STARCODER, "starcoder2-17": _STARCODER2_SMALL, "starcoder2-605": _STARCODER2_LARGE}
    return {name: tuple(sorted(text.replace("\n", "").split("|"))) for name, text in texts.items()}


def expand_languages(names: list[str]) -> list[str]:
    """Return languages given by name or by the name of a list, sorted, each once.

    Raises:
        KeyError: a name is neither; it is the error's argument.
    """
    known = frozenset(known_languages())
    languages: set[str] = set()
    for name in names:
        found = named_lists().get(name, (name,) if name in known else ())
        if not found:
            raise KeyError(name)
        languages.update(found)
    return sorted(languages)
