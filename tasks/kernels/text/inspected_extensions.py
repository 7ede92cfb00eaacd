"""The extensions that StarCoder's and StarCoder2's people looked at, and which of them they left out.

Sources: bigcode-dataset preprocessing/visual_inspection.csv (Apache-2.0; 300 extensions of 88 languages, of which 36 rows do not say
"Include"), its names of languages written as GitHub Linguist's; the-stack-v2 pull_requests_and_issues/language_labels.csv (Apache-2.0;
1,295 pairs of language and extension, of which 179 were excluded, and with them all of 53 languages). An extension is what stands behind
the last dot of a file's name, in lower case; `-` is a file without one.
"""

from __future__ import annotations

import functools

_STARCODER_INCLUDED = """
Ada: ada adb ads
Agda: agda
Alloy: als
ANTLR: g4
AppleScript: applescript scpt
Assembly: a51 asm nasm
Augeas: aug
Awk: auk awk gawk mawk nawk
Batchfile: bat cmd
BibTeX: bib
Bluespec: bsv
C: c h
C#: cake cs cshtml
C++: c++ cc cp cpp cxx h++ hh hpp hxx inl ipp tcc tpp
Clojure: boot clj cljc cljs cljx
CMake: cmake
CoffeeScript: _coffee cjsx coffee cson iced
Common Lisp: asd lisp lsp ny
CSS: css
Cuda: cu cuh
Dart: dart
Dockerfile: - 1 3 dockerfile mustache
Elixir: ex exs
Elm: elm
Emacs Lisp: el emacs
Erlang: erl escript hrl yrl
F#: fs fsi fsx
Fortran: f f03 f08 f90 f95 for fpp
Fortran Free Form: f f03 f08 f90 f95 for fpp
GLSL: fp frag fsh fshader geom glsl glslv shader vert vsh vshader
Go: go
Groovy: groovy gtpl gvy
Haskell: hs hsc
HTML: htm html xht xhtml
Idris: idr lidr
Isabelle: thy
Java: java
Java Server Pages: jsp
JavaScript: es6 js jsm pac sjs xsjslib
JSON: json
Julia: jl
Kotlin: kt kts
Lean: hlean lean
Literate Agda: lagda
Literate CoffeeScript: litcoffee
Literate Haskell: lhs
Lua: lua nse wlua
Makefile: - cmake mak mk txt
Maple: mpl
Markdown: markdown md mkd mkdn ron
MATLAB: matlab
OCaml: eliom eliomi ml ml4 mli mll mly
Pascal: dfm lpr pas
Perl: perl pl pm psgi t
PHP: ctp php phpt
PLpgSQL: sql
PLSQL: ddl pkb pks plb plsql sql
PowerShell: ps1 psd1 psm1
Prolog: prolog yap
Protocol Buffer: proto
Python: bzl gyp py pyde pyw
R: r rd rsx
Racket: scrbl
reStructuredText: rst
RMarkdown: rmd
Ruby: builder gemspec jbuilder podspec rabl rake rb rbw ru ruby thor
Rust: rs
SAS: sas
Scala: sbt scala
Scheme: scm sld sps
Shell: bash bats command ksh sh tmux tool zsh
Smalltalk: st
Solidity: sol
SPARQL: rq sparql
SQL: cql db2 ddl pkb pks plb plsql prc sql udf
Stan: stan
Standard ML: fun sml
Starlark: bzl
Stata: ado do doh mata matah
SystemVerilog: sv svh vh
Tcl: adp tcl tm
Tcsh: csh tcsh
TeX: bbx bib cbx dtx ins lbx mkii mkiv mkvi sty tex
Thrift: thrift
TSX: tsx
TypeScript: ts tsx
VBA: bas frm vba
VBScript: vbs
Verilog: veo
VHDL: vhd vhdl vhi vho vhw
Visual Basic .NET: vb vbhtml
Visual Basic 6.0: bas frm
Wolfram Language: ma mathematica mt nb wl
XSLT: xsl xslt
Yacc: y yacc
YAML: yaml yml
Zig: zig
"""

_STARCODER_EXCLUDED = """
Bison: bison
C: cats w
C#: csx
Clojure: cl2
Common Lisp: sexp
Erlang: xrl
Fortran: f77
Fortran Free Form: f77
GLSL: frg geo vrx
Groovy: grt
Pascal: dpr
Perl: al ph plx
PLSQL: pck tab
Racket: rkt rktd rktl
reStructuredText: rest
SQL: pck pls tab
Standard ML: sig
Stata: ihlp sthlp
TeX: aux ltx toc
VBA: frx
VHDL: vhf vht
Visual Basic 6.0: frx
Wolfram Language: cdf nbp wlt
Yacc: yy
"""

_STARCODER2_EXCLUDED = """
AGS Script: asc ash
AngelScript: as
AsciiDoc: asc
AspectJ: aj
Bicep: bicep
Bison: bison
Boogie: bpl
C++: -
Cabal Config: project
Checksums: md5 sha1 sha256 sha512
ChucK: ck
CODEOWNERS: -
COLLADA: dae
Common Lisp: l sexp
Common Workflow Language: cwl
CoNLL-U: conll conllu
CSV: csv
Cue Sheet: cue
desktop: desktop in service
Diff: diff patch
DIGITAL Command Language: com
DirectX 3D File: x
DTrace: d
E-mail: - eml mbox txt url
edn: edn
Elixir: lock
Factor: factor
G-code: gcode
GAP: g gd
Gemfile.lock: lock
Gerber Image: cmp gbl gbo gbr gbs gtl gto gtp gts sol
Gettext Catalog: pot
Git Config: gitmodules
GLSL: geo
Glyph Bitmap Distribution Format: bdf
GN: gn
Gnuplot: - gp p plot plt
Go Checksums: sum
Ignore List: dockerignore eslintignore gitignore npmignore
INI: cfg prefs url
JAR Manifest: mf
Java Properties: properties
Jest Snapshot: snap
JetBrains MPS: mps
JSONLD: jsonld
KiCad Layout: -
KiCad Schematic: sch
Linux Kernel Module: mod
LiveScript: ls
Makefile: d make
Mathematica: cdf
Max: maxpat
MAXScript: ms
mIRC Script: mrc
NASL: inc
nesC: nc
Nunjucks: njk
OpenEdge ABL: p
Pascal: - dpr inc pp
Perl: al ph
Pickle: pkl
PLSQL: pck pls tps trg vw
PostScript: eps ps
POV-Ray SDL: inc
Protocol Buffer Text Format: pbt
Public Key: asc pub
Puppet: -
PureBasic: pb
Racket: rktd
Raw token data: raw
ReScript: res
reStructuredText: rest
Rich Text Format: rtf
Roff: - 1d 2 5 7 8 9 in
Roff Manpage: - 1d 2 3d 4 6 9 man
Scala: sc
Scilab: tst
SELinux Policy: te
Shell: env
Slash: sl
SmPL: cocci
SQL: tab
Standard ML: sig
Stata: ihlp sthlp
SubRip Text: srt
SuperCollider: sc
SVG: svg
SWIG: i
TeX: aux ltx toc
TOML: lock
TSV: tsv
Turtle: ttl
Unity3D Asset: anim asset mat meta prefab unity
VBA: frx
Vim Snippet: snippet
Wavefront Material: mtl
Wavefront Object: obj
WebVTT: vtt
Wikitext: wikitext
Windows Registry Entries: reg
wisp: w
World of Warcraft Addon Data: toc
X BitMap: xbm
X PixMap: xpm
XML: kml pt resx rss
XML Property List: plist tmcommand tmlanguage tmsnippet tmtheme
Yacc: yy
"""

_STARCODER2_LANGUAGES = """
1C Enterprise; 2-Dimensional Array; 4D; ABAP; ABAP CDS; ABNF; ActionScript; Ada; Adobe Font Metrics; Agda; AIDL; AL; Alloy;
Alpine Abuild; Altium Designer; AMPL; AngelScript; Ant Build System; Antlers; ANTLR; ApacheConf; Apex; API Blueprint; APL;
Apollo Guidance Computer; AppleScript; Arc; AsciiDoc; ASL; ASN.1; ASP.NET; Assembly; Astro; Asymptote; ATS; Augeas; AutoHotkey; AutoIt;
Avro IDL; Awk; Ballerina; BASIC; Batchfile; Beef; Befunge; Berry; BibTeX; Bikeshed; Bison; BitBake; Blade; BlitzBasic; BlitzMax;
Bluespec; Boo; Brainfuck; BrighterScript; Brightscript; Browserslist; C; C#; C++; C-ObjDump; C2hs Haskell; Cabal Config; Cadence;
Cairo; CameLIGO; CAP CDS; Cap'n Proto; CartoCSS; Ceylon; Chapel; Charity; CIL; Cirru; Clarion; Clarity; Classic ASP; Clean; Click;
CLIPS; Clojure; Closure Templates; Cloud Firestore Security Rules; CMake; COBOL; CodeQL; CoffeeScript; ColdFusion; ColdFusion CFC;
Common Lisp; Component Pascal; Cool; Coq; Creole; Crystal; CSON; Csound; Csound Document; Csound Score; CSS; Cuda; CUE; cURL Config;
Curry; CWeb; Cycript; Cython; D; Dafny; Darcs Patch; Dart; DataWeave; Debian Package Control File; DenizenScript; Dhall; dircolors; DM;
DNS Zone; Dockerfile; Dogescript; Dylan; E; Eagle; Earthly; Easybuild; EBNF; eC; Ecere Projects; ECL; ECLiPSe; EditorConfig;
Edje Data Collection; Eiffel; EJS; Elixir; Elm; Elvish; Emacs Lisp; EmberScript; EQ; Erlang; Euphoria; F#; F*; Fancy; Fantom; Faust;
Fennel; FIGlet Font; Filebench WML; Filterscript; fish; Fluent; FLUX; Formatted; Forth; Fortran; Fortran Free Form; FreeBasic;
FreeMarker; Frege; Futhark; G-code; Game Maker Language; GAML; GAMS; GAP; GCC Machine Description; GDB; GDScript; GEDCOM; Gemini;
Genero; Genero Forms; Genie; Genshi; Gentoo Ebuild; Gentoo Eclass; Gettext Catalog; Gherkin; Git Attributes; Git Config;
Git Revision List; Gleam; GLSL; Glyph; GN; Gnuplot; Go; Go Module; Golo; Gosu; Grace; Gradle; Grammatical Framework;
Graph Modeling Language; GraphQL; Graphviz (DOT); Groovy; Groovy Server Pages; GSC; Hack; Haml; Handlebars; HAProxy; Harbour; Haskell;
Haxe; HCL; HiveQL; HLSL; HOCON; HolyC; hoon; HTML; HTML+ECR; HTML+EEX; HTML+ERB; HTML+PHP; HTML+Razor; HTTP; HXML; Hy; HyPhy; IDL;
Idris; IGOR Pro; ImageJ Macro; Inform 7; INI; Inno Setup; Io; Ioke; IRC log; Isabelle; Isabelle ROOT; J; Janet; Jasmin; Java;
Java Server Pages; JavaScript; JavaScript+ERB; JetBrains MPS; JFlex; Jinja; Jison; Jison Lex; Jolie; jq; JSON; JSON with Comments;
JSON5; JSONiq; Jsonnet; Julia; Jupyter Notebook; Kaitai Struct; KakouneScript; KiCad Legacy Layout; KiCad Schematic; Kit; Kotlin; KRL;
Kusto; kvlang; LabVIEW; Lark; Lasso; Latte; Lean; Less; Lex; LFE; LigoLANG; LilyPond; Limbo; Linker Script; Liquid; Literate Agda;
Literate CoffeeScript; Literate Haskell; LiveScript; LLVM; Logos; Logtalk; LOLCODE; LookML; LoomScript; LSL; LTspice Symbol; Lua; M;
M4; M4Sugar; Macaulay2; Makefile; Mako; Markdown; Marko; Mask; Mathematica; MATLAB; Maven POM; Max; MAXScript; mcfunction; Mercury;
Meson; Metal; Microsoft Developer Studio Project; Microsoft Visual Studio Solution; MiniD; MiniYAML; Mint; Mirah; MLIR; Modelica;
Modula-2; Modula-3; Module Management System; Monkey; Monkey C; Moocode; MoonScript; Motoko; Motorola 68K Assembly; Move; MQL4; MQL5;
MTML; MUF; mupad; Muse; Mustache; Myghty; nanorc; Nasal; NASL; NCL; Nearley; Nemerle; NEON; NetLinx; NetLinx+ERB; NetLogo; NewLisp;
Nextflow; Nginx; Nim; Ninja; Nit; Nix; NL; NPM Config; NSIS; Nu; NumPy; NWScript; ObjDump; Object Data Instance Notation; Objective-C;
Objective-C++; Objective-J; ObjectScript; OCaml; Odin; Omgrofl; ooc; Opa; Opal; Open Policy Agent; OpenCL; OpenEdge ABL; OpenQASM;
OpenRC runscript; OpenSCAD; OpenStep Property List; OpenType Feature File; Org; Ox; Oxygene; Oz; P4; Pan; Papyrus; Parrot;
Parrot Assembly; Parrot Internal Representation; Pascal; Pawn; PEG.js; Pep8; Perl; PHP; Pic; PicoLisp; PigLatin; Pike; PlantUML;
PLpgSQL; PLSQL; Pod; Pod 6; PogoScript; Pony; Portugol; PostCSS; POV-Ray SDL; PowerBuilder; PowerShell; Prisma; Processing; Procfile;
Proguard; Prolog; Promela; Propeller Spin; Protocol Buffer; Protocol Buffer Text Format; Pug; Puppet; Pure Data; PureBasic; PureScript;
Python; Python traceback; q; Q#; QMake; QML; Qt Script; Quake; R; Racket; Ragel; Raku; RAML; Rascal; Raw token data; RDoc;
Readline Config; REALbasic; Reason; ReasonLIGO; Rebol; Record Jar; Red; Redcode; Redirect Rules; Regular Expression; Ren'Py;
RenderScript; reStructuredText; REXX; Ring; Riot; RMarkdown; RobotFramework; robots.txt; Roff; Roff Manpage; Rouge; RouterOS Script;
RPC; RPGLE; RPM Spec; Ruby; RUNOFF; Rust; Sage; SaltStack; SAS; Sass; Scala; Scaml; Scheme; Scilab; SCSS; sed; Self; SELinux Policy;
ShaderLab; Shell; ShellCheck Config; ShellSession; Shen; Sieve; Singularity; Slash; Slice; Slim; Smali; Smalltalk; Smarty; SMT;
Solidity; Soong; SourcePawn; SPARQL; Spline Font Database; SQF; SQL; SQLPL; Squirrel; SRecode Template; SSH Config; Stan; Standard ML;
STAR; Starlark; Stata; STL; STON; StringTemplate; Stylus; SugarSS; SuperCollider; Svelte; Swift; SystemVerilog; Talon; Tcl; Tcsh; Tea;
Terra; TeX; Texinfo; Text; Textile; TextMate Properties; Thrift; TI Program; TLA; TOML; TSQL; TSX; Turing; Twig; TXL; Type Language;
TypeScript; Unified Parallel C; Unix Assembly; Uno; UnrealScript; UrWeb; V; Vala; Valve Data Format; VBA; VBScript; VCL;
Velocity Template Language; Verilog; VHDL; Vim Help File; Vim Script; Vim Snippet; Visual Basic .NET; Volt; Vue; Vyper; wdl;
Web Ontology Language; WebAssembly; WebIDL; Wget Config; Whiley; Wikitext; Win32 Message File; wisp; Witcher Script; Wollok; Wren;
X Font Directory Index; X PixMap; X10; xBase; XC; XCompose; XML; Xojo; Xonsh; XPages; XProc; XQuery; XS; XSLT; Xtend; Yacc; YAML; YANG;
YARA; YASnippet; Yul; ZAP; Zeek; ZenScript; Zephir; Zig; ZIL; Zimpl
"""


def _pairs(table: str) -> frozenset[str]:
    """Return `language/extension` of each pair of a table; a line that is indented goes on with the one before."""
    found = []
    for line in table.strip().replace("\n    ", " ").splitlines():
        language, _, extensions = line.partition(": ")
        found += [f"{language}/{'' if extension == '-' else extension}" for extension in extensions.split()]
    return frozenset(found)


@functools.cache
def starcoder_pairs() -> tuple[frozenset[str], frozenset[str]]:
    """Return the pairs `language/extension` that StarCoder trained on, and those that it looked at and left out."""
    return _pairs(_STARCODER_INCLUDED), _pairs(_STARCODER_EXCLUDED)


@functools.cache
def starcoder2_excluded() -> frozenset[str]:
    """Return the pairs `language/extension` that StarCoder2 left out."""
    return _pairs(_STARCODER2_EXCLUDED)


@functools.cache
def starcoder2_languages() -> frozenset[str]:
    """Return the languages of which StarCoder2 kept an extension; Coq is Linguist's Rocq Prover now."""
    return frozenset(name.strip() for name in _STARCODER2_LANGUAGES.replace("\n", " ").split(";")) | {"Rocq Prover"}
