"""Comments, n-grams and visible text equal plain Python."""

import ast
import io
import re
import tokenize
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments import lex
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment

from starloom.tasks.kernels.text.comments import comment_fractions
from starloom.tasks.kernels.text.ngrams import DUPLICATE, TOP, ngram_signals
from starloom.tasks.kernels.text.visible_text import visible_chars
from tests.sizes import examples

# N-grams

WORDS = st.lists(st.sampled_from(["a", "Bc", "é", "x_1", "漢字", "long_word"]), max_size=40).map(" ".join)
TEXTS = st.lists(WORDS | WORDS.map(lambda words: words * 3) | st.text("aB_ .\né", max_size=30), max_size=4)


def shares(text: str) -> dict[str, float]:
    """What opc_data_filtering computes."""
    words = [re.sub("[A-Z]", lambda found: found.group().lower(), word) for word in re.findall(r"(?:[0-9A-Za-z_]|[^\x00-\x7f])+", text)]
    total, found = sum(map(len, words)), {}
    for n in (*TOP, *DUPLICATE):
        grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
        counted = Counter(grams)
        if n in TOP:
            gram, count = (counted.most_common(1) or [((), 0)])[0]
            found[f"top_{n}gram_fraction"] = sum(map(len, gram)) * count / total if count > 1 else 0
        else:
            marked = {at + k for at, gram in enumerate(grams) if counted[gram] > 1 for k in range(n)}
            found[f"duplicate_{n}gram_fraction"] = sum(len(words[at]) for at in marked) / total if total else 0
    return found


@given(TEXTS)
@settings(max_examples=examples(200))
def test_ngrams_equal_counting_with_a_dictionary(texts):
    found = pa.table(ngram_signals(pa.chunked_array([pa.array(texts, pa.string())]))).to_pylist()
    assert found == [pytest.approx(shares(text)) for text in texts]


# Comments


def python_comments(source: str) -> int:
    """Characters of comments and of strings that are statements, by Python's own tokenizer and parser."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = sum(len(token.string) for token in tokens if token.type == tokenize.COMMENT)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found += len(ast.get_source_segment(source, node))
    return found


def share(text: str, language: str | None) -> float | None:
    return comment_fractions(pa.chunked_array([[text]]), pa.chunked_array([pa.array([language], pa.string())]))[0].as_py()


def test_comments_of_python_are_those_of_its_own_tokenizer():
    files = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_c*.py"))]
    files = [text for text in files if not re.search(r'^\s*[rbf]"""', text, re.MULTILINE)]
    assert len(files) > 9
    for text in files:
        assert share(text, "Python") == pytest.approx(python_comments(text) / len(text))


@pytest.mark.parametrize(
    ("text", "language", "comments"),
    [
        ("", "C", 0),
        ("x = 1; // é'\ny = '//'; /* a\n\"b */ z", "C", len("// é'") + len('/* a\n"b */')),
        ('s = "\\"// no"; // yes', "Java", len("// yes")),
        ("x /* never closed", "Go", len("/* never closed")),
        ("-- a\nselect '--' /* b */", "SQL", len("-- a/* b */")),
        ("<p><!-- c --></p>", "HTML", len("<!-- c -->")),
        ("x = '''# no'''\ndef f():\n  'doc'\n  g(\n'''no'''\n)", "Python", len("'doc'")),
        ("# a", "no such language", None),
        ("# a", None, None),
    ],
)
def test_comments_of_each_syntax(text, language, comments):
    assert share(text, language) == (None if comments is None else comments / max(len(text), 1))


C_PIECES = ["int a;", "// one\n", "/* two\n * lines */", '"a // b"', "'\\''", "\n", "x / y", "f();\n", '"\\""', "é"]


@given(st.lists(st.sampled_from(C_PIECES), max_size=12).map("".join))
@settings(max_examples=examples(100))
def test_comments_of_c_are_those_of_pygments(text):
    told = sum(
        len(word.rstrip("\n")) for kind, word in lex(text, get_lexer_by_name("java", stripnl=False, ensurenl=False)) if kind in Comment
    )
    assert share(text, "Java") == pytest.approx(told / max(len(text), 1))


# HTML


class Visible(HTMLParser):
    """BeautifulSoup's `get_text` without script and style, in short."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found, self.piece, self.inside = 0, "", []

    def end_piece(self) -> None:
        kept = any(tag in ("pre", "textarea") for tag in self.inside)
        if not any(tag in ("script", "style") for tag in self.inside):
            self.found += min(len(self.piece), 1) if not self.piece.strip(" \n\t\f\r") and not kept else len(self.piece)
        self.piece = ""

    def handle_starttag(self, tag, attrs):
        self.end_piece()
        self.inside.append(tag)

    def handle_endtag(self, tag):
        self.end_piece()
        if tag in self.inside:
            self.inside.remove(tag)

    def handle_data(self, data):
        self.piece += data

    def handle_comment(self, data):
        self.end_piece()

    handle_decl = handle_pi = handle_comment


def seen(text: str) -> int:
    parser = Visible()
    parser.feed(text)
    parser.close()
    parser.end_piece()
    return parser.found


HTML = ["<p class='a>b'>", "</p>", "text é", " \n ", "&amp;", "&#233;", "a < b", "<!-- c <p> -->", "<!DOCTYPE html>", "<br/>"]
HTML += ["<script>if (a</b) '<p>'</script>", "<STYLE type=x>p > a {}</style >", "<pre>  \n ", "</pre>", "1 & 2", '<a href="x>y">', "</a>"]


@given(st.lists(st.lists(st.sampled_from(HTML), max_size=10).map("".join), max_size=4))
@settings(max_examples=examples(200))
def test_visible_text_is_that_of_pythons_parser(texts):
    assert visible_chars(pa.array(texts, pa.string())).tolist() == [seen(text) for text in texts]


@pytest.mark.parametrize(("text", "visible"), [("<", 1), ("<a", 0), ("<!-- never closed", 0), ("", 0), ("&", 1), ("&;", 2), ("</", 2)])
def test_markup_that_never_ends_is_read_to_the_end(text, visible):
    assert visible_chars(pa.array([text, "x", text])).tolist() == [visible, 1, visible]
