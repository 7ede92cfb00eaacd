"""Classification of a file by its name alone: language, kind, vendored or not, generated or not.

Names and extensions are those of GitHub Linguist (languages.yml, vendor.yml, generated.rb, MIT licence), cut to the
languages that The Stack kept or that people look for. Linguist settles an extension claimed by several languages by
reading the file; here each extension has one language, the commonest in source repositories (`.h` is C, `.m` is
Objective-C), as in The Stack v1, which went by extension alone.
Guarantee: pure functions of the path. Cost: a few microseconds a path; of `are_vendored` and `are_generated` a fraction of one.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_LANGUAGES = """
ABAP: .abap
Ada: .adb .ada .ads
Agda: .agda
Alloy: .als
ANTLR: .g4
Apex: .apex .trigger
APL: .apl .dyalog
AppleScript: .applescript .scpt
AsciiDoc: .asciidoc .adoc .asc
Assembly: .asm .a51 .nas .nasm
Astro: .astro
Augeas: .aug
AutoHotkey: .ahk .ah1 .ah2 .ahkl
AutoIt: .au3
Awk: .awk .auk .gawk .mawk .nawk
Ballerina: .bal
Batchfile: .bat .cmd =gradlew.bat =mvnw.cmd
BibTeX: .bib .bibtex
Bicep: .bicep .bicepparam
BitBake: .bb .bbappend .bbclass
Blade: .blade .blade.php
Bluespec: .bsv
Brainfuck: .b .bf
C: .c .cats .h .h.in .idc
C#: .cs .cake .cs.pp .csx .linq
C++: .cpp .c++ .cc .cp .cppm .cxx .h++ .hh .hpp .hxx .inl .ino .ipp .ixx .tcc .tpp .txx
Cairo: .cairo
Cap'n Proto: .capnp
Chapel: .chpl
Checksums: .crc32 .md2 .md4 .md5 .sha1 .sha2 .sha224 .sha256 .sha256sum .sha3 .sha384 .sha512 =MD5SUMS
    =SHA1SUMS =SHA256SUMS =SHA512SUMS
Clojure: .clj .boot .cl2 .cljc .cljs .cljs.hl .cljscm .cljx .hic =riemann.config
CMake: .cmake .cmake.in =CMakeLists.txt
COBOL: .cob .cbl .ccp .cobol .cpy
CoffeeScript: .coffee ._coffee .cjsx .coffee.erb .iced =Cakefile
ColdFusion: .cfm .cfml
Common Lisp: .lisp .asd .lsp .ny .podsl .sexp
Crystal: .cr
CSS: .css
CSV: .csv
Cuda: .cu .cuh
CUE: .cue
Cython: .pyx .pxd .pxi
D: .d .di
Dart: .dart
Dhall: .dhall
Diff: .diff .patch
Dockerfile: .dockerfile .containerfile =Containerfile =Dockerfile
Eiffel: .e
EJS: .ejs .ect .ejs.t .jst
Elixir: .ex .exs =mix.lock
Elm: .elm
Elvish: .elv
Emacs Lisp: .el .emacs =.emacs =.emacs.desktop =.spacemacs =Cask =Eask
Erlang: .erl .app.src .escript .hrl .xrl .yrl =Emakefile =rebar.config =rebar.config.lock =rebar.lock
F#: .fs .fsi .fsx
Fennel: .fnl
fish: .fish
FlatBuffers: .fbs
Forth: .fth .4th .forth .frt
Fortran: .f .f77 .for .fpp
Fortran Free Form: .f90 .f03 .f08 .f95
GAP: .g .gap .gi .tst
GDScript: .gd
Gettext Catalog: .po .pot
Gherkin: .feature .story
Gleam: .gleam
GLSL: .glsl .frag .fsh .fshader .geom .glslf .glslv .gshader .rchit .rmiss .tesc .tese .vert .vs .vsh
    .vshader
Gnuplot: .gp .gnu .gnuplot .p .plot .plt
Go: .go
Go Checksums: =go.sum =go.work.sum
Go Module: =go.mod
Gradle: .gradle
GraphQL: .graphql .gql .graphqls
Graphviz (DOT): .dot .gv
Groovy: .groovy .grt .gtpl .gvy =Jenkinsfile
Hack: .hack .hhi
Haml: .haml .haml.deface
Handlebars: .handlebars .hbs
Haskell: .hs .hs-boot .hsc
Haxe: .hx .hxsl
HCL: .hcl .nomad .tf .tfvars .tofu .workflow
HLSL: .hlsl .cginc .fx .fxh .hlsli
HTML: .html .hta .htm .html.hl .xht .xhtml
HTML+ERB: .erb .erb.deface .rhtml
Hy: .hy
IDL: .dlm
Idris: .idr .lidr
Ignore List: .gitignore =.bzrignore =.cvsignore =.dockerignore =.eslintignore =.ignore =.markdownlintignore
    =.npmignore =.prettierignore =.stylelintignore
INI: .ini .cfg .service =.buckconfig =.coveragerc =.flake8 =.gitreview =.pylintrc =pylintrc
Isabelle: .thy
J: .ijs
Janet: .janet
Java: .java .jav .jsh
Java Properties: .properties
Java Server Pages: .jsp .tag
JavaScript: .js .cjs .es .es6 .javascript .jsm .jsx .mjs =Jakefile
Jinja: .jinja .j2 .jinja2
JSON: .json .avsc .geojson .gltf .har .json-tmlanguage .jsonl .sarif .tfstate .tfstate.backup .topojson
    .webmanifest =.nycrc =.secrets.baseline =.watchmanconfig =MODULE.bazel.lock =Package.resolved
    =Pipfile.lock =bun.lock =composer.lock =deno.lock =flake.lock
JSON with Comments: .jsonc .code-snippets .code-workspace .sublime-keymap .sublime-project .sublime-settings
    .sublime-workspace .tsconfig.json =.babelrc =.devcontainer.json =.eslintrc.json =.jscsrc =.jshintrc
    =.jslintrc =.oxlintrc.json =.swcrc =api-extractor.json =devcontainer.json =jsconfig.json
    =language-configuration.json =tsconfig.json =tslint.json
JSON5: .json5
JSONLD: .jsonld
Jsonnet: .jsonnet .libsonnet
Julia: .jl
Jupyter Notebook: .ipynb =Notebook
Just: .just =.JUSTFILE =.Justfile =.justfile =JUSTFILE =Justfile =justfile
Kotlin: .kt .ktm .kts
Lean: .lean .hlean
Less: .less
Lex: .l .lex =Lexer.x =lexer.x
Linker Script: .ld .lds .x =ld.script
Liquid: .liquid
Literate Agda: .lagda
Literate CoffeeScript: .litcoffee .coffee.md
Literate Haskell: .lhs
LiveScript: .ls ._ls =Slakefile
LLVM: .ll
Lua: .lua .nse .p8 .pd_lua .rbxs .rockspec .wlua =.luacheckrc
M4: .m4 .mc
Makefile: .mak .make .makefile .mk .mkfile =BSDmakefile =GNUmakefile =Kbuild =Makefile =Makefile.am
    =Makefile.in =Makefile.inc =makefile
Mako: .mako .mao
Markdown: .md .livemd .markdown .mdown .mdwn .mkd .mkdn .mkdown .ronn .workbook =contents.lr
MATLAB: .matlab
Meson: =meson.build =meson_options.txt
Metal: .metal
MLIR: .mlir
Mojo: .mojo
Move: .move
Mustache: .mustache
Nextflow: .nf =nextflow.config
Nim: .nim .nim.cfg .nimble .nimrod .nims =nim.cfg
Ninja: .ninja
Nix: .nix
NSIS: .nsi .nsh
Nunjucks: .njk
Nushell: .nu
Objective-C: .m
Objective-C++: .mm
OCaml: .ml .eliom .eliomi .ml4 .mli .mll .mly
Odin: .odin
OpenCL: .cl .opencl
OpenSCAD: .scad
Org: .org
Pascal: .pas .dfm .dpr .lpr .pascal
Perl: .pl .al .cgi .fcgi .perl .ph .plx .pm .psgi .t =Makefile.PL =cpanfile
PHP: .php .aw .ctp .inc .php3 .php4 .php5 .phps .phpt =.php =.php_cs =.php_cs.dist =Phakefile
Pip Requirements: =dev-requirements.txt =requirements-dev.txt =requirements.lock.txt =requirements.txt
PLpgSQL: .pgsql
PLSQL: .pls .bdy .fnc .pck .pkb .pks .plb .plsql .prc .spc .tpb .tps .trg .vw
Pony: .pony
PostScript: .ps .eps .epsi .pfa
PowerShell: .ps1 .psd1 .psm1
Processing: .pde
Prolog: .pro .prolog .yap
Protocol Buffer: .proto
Public Key: .pub
Pug: .jade .pug
Puppet: .pp =Modulefile
PureBasic: .pb .pbi
PureScript: .purs
Python: .py .gyp .gypi .py3 .pyi .pyw .wsgi .xpy =SConscript =SConstruct =wscript
Q#: .qs
QML: .qml .qbs
R: .r .rd .rhistory .rsx =.Rapp.history =.Rhistory =.Rprofile =expr-dist
Racket: .rkt .rktd .rktl .scrbl
Raku: .6pl .6pm .nqp .p6 .p6l .p6m .pl6 .pm6 .raku .rakumod
RDoc: .rdoc
Reason: .re .rei
ReScript: .res .resi
reStructuredText: .rst .rest .rest.txt .rst.txt
REXX: .rexx .pprx .rex
Rich Text Format: .rtf
Ring: .ring
RMarkdown: .qmd .rmd
RobotFramework: .robot .resource
Rocq Prover: .coq
Roff: .roff .1 .2 .3 .4 .5 .6 .7 .8 .9 .man .mdoc .tmac
Rouge: .rg
Ruby: .rb .gemspec .jbuilder .pluginspec .podspec .rake .rbi .ru =.irbrc =Berksfile =Brewfile =Capfile
    =Dangerfile =Fastfile =Gemfile =Guardfile =Podfile =Puppetfile =Rakefile =Vagrantfile
Rust: .rs .rs.in
SAS: .sas
Sass: .sass
Scala: .scala .kojo .sbt .sc
Scheme: .scm .sch .sld .sls .sps .ss
SCSS: .scss
Shell: .sh .bash .bats .ksh .sbatch .sh.in .slurm .tmux .zsh .zsh-theme =.bash_aliases =.bash_functions
    =.bash_logout =.bash_profile =.bashrc =.cshrc =.envrc =.kshrc =.profile =.tmux.conf =.xinitrc =.xsession
    =.zlogin =.zlogout =.zprofile =.zshenv =.zshrc =PKGBUILD =gradlew =mvnw
Slim: .slim
Slint: .slint
Smalltalk: .st
SMT: .smt2 .smt .z3
Snakemake: .smk .snakefile =Snakefile
Solidity: .sol
SPARQL: .sparql .rq
SQL: .sql .ddl .mysql .tab .udf .viw
Stan: .stan
Standard ML: .fun .sig .sml
Starlark: .bzl .star =BUCK =BUILD =BUILD.bazel =MODULE.bazel =Tiltfile =WORKSPACE =WORKSPACE.bazel
    =WORKSPACE.bzlmod
Stata: .do .ado .doh .ihlp .mata .matah .sthlp
Stylus: .styl
SubRip Text: .srt
SuperCollider: .scd
Svelte: .svelte
SVG: .svg
Swift: .swift
SWIG: .i .swg .swig
SystemVerilog: .sv .svh .vh
Tcl: .tcl .adp .sdc .tcl.in .tm .xdc =owh =starfield
Tcsh: .tcsh .csh
TeX: .tex .aux .bbx .cbx .cls .dtx .ins .lbx .ltx .mkii .mkiv .mkvi .sty .toc
Text: .txt =INSTALL =NEWS =README =TODO =CHANGES =CHANGELOG =AUTHORS
Textile: .textile
Thrift: .thrift
TOML: .toml =Cargo.lock =Cargo.toml.orig =Gopkg.lock =Pipfile =mise.local.lock =mise.lock =pdm.lock
    =poetry.lock =uv.lock
TSV: .tsv .vcf
TSX: .tsx
Turtle: .ttl
Twig: .twig
TypeScript: .ts .cts .mts
Typst: .typ
Unix Assembly: .s
Vala: .vala .vapi
VBA: .vba
Verilog: .v .veo
VHDL: .vhdl .vhd .vhf .vhi .vho .vhs .vht .vhw
Visual Basic .NET: .vb .vbhtml
Visual Basic 6.0: .bas .ctl .dsr .frm
Vue: .vue
Vyper: .vy
Web Ontology Language: .owl
WebAssembly: .wast .wat
WebIDL: .webidl
WGSL: .wgsl
Wolfram Language: .mathematica .cdf .ma .mt .nb .nbp .wl .wls .wlt
Wren: .wren
XML: .xml .csproj .dita .ditamap .dll.config .fsproj .fxml .glade .gml .gpx .iml .kml .nuspec .osm .props
    .ps1xml .rdf .resx .rss .storyboard .ui .urdf .vbproj .vcxproj .vsixmanifest .wsdl .wxi .wxs .xacro
    .xaml .xib .xlf .xliff .xmp .xsd =.classpath =.cproject =.project =App.config =NuGet.config
    =Settings.StyleCop =Web.Debug.config =Web.Release.config =Web.config =packages.config
XML Property List: .plist .sttheme .tmcommand .tmlanguage .tmpreferences .tmsnippet .tmtheme
XQuery: .xquery .xq .xql .xqm .xqy
XSLT: .xslt .xsl
Yacc: .y .yacc .yy
YAML: .yml .reek .rviz .sublime-syntax .yaml .yaml-tmlanguage =.clang-format =.clang-tidy =.clangd
    =.eslintrc =.gemrc =CITATION.cff =glide.lock =pixi.lock =yarn.lock
Zig: .zig .zig.zon
"""
"""One language a line (indented lines go on): `.` starts an extension, `=` a whole file name."""

PROSE = frozenset({"AsciiDoc", "Markdown", "Org", "RDoc", "RMarkdown", "Roff", "Text", "Textile", "reStructuredText"})
"""Languages whose files are documentation, not code."""

_LICENSE_NAME = re.compile(
    r"^(|.*[-_. ])(li[cs]en[cs]e(s?)|legal|copy(left|right|ing)|unlicense|[al]?gpl([-_ v]?)(\d\.?\d?)?|bsd(l?)|mit(x?)"
    r"|apache|artistic|copying(v?)(\d?)|disclaimer|eupl|gfdl|[cm]pl|cc0|al([-_ v]?)(\d\.?\d)?|notice)(|[-_. ].*)$",
    re.IGNORECASE,
)
"""The Stack v2's pattern of licence-like names, less about, readme and guidelines, which are documentation to us."""

_DIST_INFO = re.compile(r"^(.*/|)([^/]+?)-[^/-]+\.dist-info/(?:licenses/|license_files/)?(.*/|)[^/]*$")

_LICENSE_FOLDERS = frozenset({"license", "licenses", "licence", "licences"})

_SHARED_LIBRARY = re.compile(r"\.so\.\d")

_VENDORED = (
    r"(^|/)_?vendors?/",
    r"(^|/)_vendored/",
    r"(^|/)[Ee]xtern(als?)?/",
    r"(3rd|[Tt]hird)[-_]?[Pp]arty/",
    r"(^|/)(node_modules|bower_components|Godeps/_workspace|\.yarn/(releases|plugins|sdks|versions|unplugged))/",
    r"(^|/)(Carthage|Pods|flow-typed|MathJax|ace-builds|admin_media|\.vscode|gradle/wrapper)/",
    r"(^|/)(cache|dist|testdata|env)/",
    r"^(deps|[Dd]ependencies|debian)/",
    r"(^|/)docs?/_?(build|themes?|templates?|static)/",
    r"(^|/)(configure|config\.guess|config\.sub|aclocal\.m4|libtool\.m4|lt(options|sugar|version|~obsolete)\.m4)$",
    r"(^|/)(cpplint\.py|erlang\.mk|waf|gradlew(\.bat)?|mvnw(\.cmd)?)$",
    r"(\.|-)min\.(js|css)$",
    r"\.d\.ts$",
    r"(^|/)(jquery|bootstrap|prototype|mootools|angular|react|d3|yui|yahoo-)([^/.]*)(\.[^/]*)?\.(js|css|less|scss)$",
    r"(^|/)(modernizr|knockout)-[^/]*\.js$",
    r"(^|/)(font-?awesome|normalize|animate|materialize|foundation|skeleton|bulma)\.(css|less|scss|sass|js)$",
    r"(^|/)(ckeditor|tiny_mce|Chart|dojo|MochiKit|effects|controls|dragdrop|bootbox|fuelux|pdf\.worker)\.js$",
)
"""From Linguist's vendor.yml; `_vendor` and `_vendored` are Python's spellings of the same habit."""

_GENERATED = (
    r"(^|/)(package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|yarn\.lock|bun\.lock|deno\.lock|\.pnp\..*)$",
    r"(^|/)(Cargo\.(lock|toml\.orig)|Gopkg\.lock|glide\.lock|go\.sum|go\.work\.sum|Package\.resolved)$",
    r"(^|/)(Pipfile|poetry|pdm|uv|pixi|composer|flake|mise|MODULE\.bazel)\.lock$",
    r"(^|/)(\.terraform\.lock\.hcl|\.secrets\.baseline)$",
    r"(^|/)(htmlcov|node_modules|__generated__|\.idea|Pods|Carthage/Build)/",
    r"(\.|-)min\.(js|css)$",
    r"\.(js|css)\.map$",
    r"_pb2(_grpc)?\.pyi?$",
    r"\.pb(\.gw)?\.(go|cc|h|swift)$",
    r"\.(pb|pbgrpc|pbjson|freezed|g|gr)\.dart$",
    r"\.designer\.(cs|vb)$",
    r"\.feature\.cs$",
    r"\.(nib|xcworkspacedata|xcuserstate)$",
)
"""From the rules of Linguist's generated.rb that read only the name; phrases in the text are a quality signal."""


def classify(path: str) -> tuple[str, str | None] | None:
    """Return (kind, language) of a file by its path; None if its name says neither language nor licence.

    Kinds: license, documentation, notebook, code. A licence file may have no language.
    """
    language = language_of(path)
    if (language is None or language in PROSE) and _is_license_path(path):
        return "license", language
    if language is None:
        return None
    if language in PROSE:
        return "documentation", language
    return ("notebook" if language == "Jupyter Notebook" else "code"), language


def language_of(path: str) -> str | None:
    """Return Linguist's name of the language, by whole file name first, then by the longest known extension."""
    names, extensions = _tables()
    name = path.rpartition("/")[2]
    if name in names:
        return names[name]
    if _SHARED_LIBRARY.search(name):
        return None  # libz.so.1 is no manual page
    lowered = name.lower()
    dots = (position for position, letter in enumerate(lowered) if letter == ".")
    return next((extensions[lowered[dot:]] for dot in dots if lowered[dot:] in extensions), None)


def are_vendored(paths: pa.Array) -> pa.BooleanArray:
    """Return for each path whether it is in a folder for third-party code."""
    return _match_any(paths, _VENDORED)


def are_generated(paths: pa.Array) -> pa.BooleanArray:
    """Return for each path whether its name is one that only generated files have."""
    return _match_any(paths, _GENERATED)


def _match_any(paths: pa.Array, patterns: tuple[str, ...]) -> pa.BooleanArray:
    import pyarrow.compute as pc

    return pc.match_substring_regex(paths, "|".join(patterns))


def license_scope(path: str) -> str:
    """Return the folder ("" or "a/b/") that a licence file applies to: its own, or the one above a `licenses` folder.

    In the metadata of a vendored wheel (`_vendor/x-1.0.dist-info/LICENSE`) it applies to the package, `_vendor/x/`.
    """
    if vendored := _DIST_INFO.match(path):
        above, name, below = vendored.groups()
        return above + (below or name.replace(".", "/") + "/")
    folder, _, _ = path.rpartition("/")
    above, _, name = folder.rpartition("/")
    folder = above if name.lower() in _LICENSE_FOLDERS else folder
    return folder + "/" if folder else ""


def _is_license_path(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.rpartition("/")[2].lower() in _LICENSE_FOLDERS or _LICENSE_NAME.match(name) is not None


@functools.cache
def _tables() -> tuple[dict[str, str], dict[str, str]]:
    """Return (language by whole file name, language by extension in lower case)."""
    names: dict[str, str] = {}
    extensions: dict[str, str] = {}
    for line in _LANGUAGES.replace("\n    ", " ").strip().splitlines():
        language, _, tokens = line.partition(": ")
        for token in tokens.split():
            if token.startswith("="):
                names[token[1:]] = language
            else:
                extensions[token] = language
    return names, extensions


@functools.cache
def known_languages() -> tuple[str, ...]:
    """Return all languages that `language_of` can answer, sorted."""
    names, extensions = _tables()
    return tuple(sorted({*names.values(), *extensions.values()}))
