"""Formulas as the statements write them, in MathML: `E_d/(E_s + E_d + m e_f)`, `K_(t+1)`, `pi*/pi_ref`, `sqrt(2)`.

Browsers set MathML themselves, so the page needs no renderer. The notation: `_` and `^` take the next name, number or
bracket, whose round brackets are not set; a star, a prime or a tilde right behind a name belongs to it; Greek letters
and functions have their names. Any other word is a word, and stays outside of `math` unless it is in brackets. A
formula is cut into several elements at its relations, plus and minus signs, so that a line can be broken there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

GREEK = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "Delta": "Δ", "epsilon": "ε", "eps": "ε", "zeta": "ζ"},
    **{"eta": "η", "kappa": "κ", "lambda": "λ", "Lam": "Λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ"},
    **{"sigma": "σ", "tau": "τ", "phi": "φ", "Phi": "Φ", "chi": "χ", "psi": "ψ", "Psi": "Ψ", "omega": "ω"},
}
SIGNS = {"sum": "∑", "grad": "∇", "int": "∫"}
FUNCTIONS = {
    *("log", "exp", "logit", "max", "min", "argmax", "tr", "rank", "diag", "sg", "Var", "Cov", "KL", "Bin"),
    *("base", "std", "acc"),
}
NAMES = {"score", "ratio", "stop", "res", "ref", "old", "sample", "alive", "factor", "push"}  # else a word
OPERATORS = {
    **{"->": "→", "<=": "≤", ">=": "≥", "+-": "±", "||": "∥", "..": "…", "-": "−", ":=": "≔", "~": "∼", "*": "∗"},
    **{x: x for x in "+=<>/.,;:|()[]{}@"},
}
BREAKS = {"=", "->", "<=", ">=", "<", ">", ":=", "+", "-", "~"}
PAUSES = {",", ":", ";"}
TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:,\d{3})*(?:\.(?!\.)\d+)?|\.(?!\.)\d+)|(?P<word>[^\W\d_]+(?:-[a-z]{4,})?)"
    r"|(?P<operator>->|<=|>=|\+-|\|\||\.\.|:=|[-~+*=<>/.,;:|()\[\]{}@])|(?P<script>[_^])|(?P<prime>'+)"
)
Token = tuple[str, str]


class _Reader:
    """Turns tokens into elements, from left to right; brackets of scripts and roots are read as a whole."""

    def __init__(self, text: str):
        self.text, self.at, self.tokens, end = text, 0, [], 0
        for found in TOKEN.finditer(text):
            if found.start() == end:
                end = found.end()
                self.tokens.append((str(found.lastgroup), found.group()))
        if end != len(text):
            raise self.error(f"from {text[end:]!r}")

    def error(self, what: str) -> ValueError:
        return ValueError(f"no formula: {self.text!r}, {what}")

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[self.at + ahead] if 0 <= self.at + ahead < len(self.tokens) else ("end", "")

    def take(self) -> Token:
        found = self.peek()
        self.at += 1
        return found

    def bracket(self) -> str:
        """What stands in the round brackets that begin here."""
        self.take()
        inside = "".join(element for _, element in self.read(True))
        if self.peek() != ("operator", ")"):
            raise self.error("a bracket is not closed")
        self.take()
        return f"<mrow>{inside}</mrow>"

    def script(self) -> str:
        """What a sub- or superscript is."""
        kind, text = self.peek()
        if (kind, text) == ("operator", "("):
            return self.bracket()
        if kind == "operator" and text in ("+", "-", "*"):
            self.take()
            more = self.atom(True) if text != "*" and self.peek()[0] in ("word", "number") else ""
            return f"<mo>{OPERATORS[text]}</mo>{more}"
        first = self.atom(True)
        if self.peek() == ("operator", ",") and self.peek(1)[0] == "word" and len(self.peek(1)[1]) == 1:
            self.take()  # two indices, without a space between them
            return f"{first}<mo>,</mo>{self.atom(True)}"
        return first

    def atom(self, script: bool = False) -> str:
        """One name, number, root, sign or word, without its scripts."""
        kind, text = self.take()
        if kind == "number":
            return f"<mn>{text}</mn>"
        if kind == "operator":
            look = ' stretchy="false"' if text in "()[]{}|" else ""
            return f"<mo{look}>{escape(OPERATORS[text])}</mo>"
        if kind != "word":
            raise self.error(f"at {text!r}")
        if text == "sqrt" and self.peek() == ("operator", "("):
            return f"<msqrt>{self.bracket()}</msqrt>"
        if text == "T" and self.peek()[0] == "number":  # a theorem
            return f"<mtext>T{self.take()[1]}</mtext>"
        follows = self.peek()
        after = self.peek(1) if follows[0] == "space" else follows
        if text in SIGNS and not self.plain(after):
            return f"<mo>{SIGNS[text]}</mo>"
        named = script or follows[0] in ("script", "prime") or follows[1] in ("(", "[", "*")
        article = text == "a" and follows[0] == "space" and (self.plain(after) or after[1] in FUNCTIONS)
        function = text in FUNCTIONS and (script or not (after[0] == "end" or self.plain(after)))
        if (len(text) == 1 and not article) or text in GREEK or function or (named and text in NAMES):
            return f"<mi>{GREEK.get(text, text)}</mi>"
        if text[0] == "d" and (len(text) == 2 or text[1:] in FUNCTIONS) and text != "do":  # a differential
            return f"<mi>d</mi><mi>{text[1:]}</mi>"
        if script and len(text) == 2 and text.islower():  # two indices
            return f"<mi>{text[0]}</mi><mi>{text[1]}</mi>"
        if text == "in" and follows[0] == "space" and self.peek(1)[0] == "word" and len(self.peek(1)[1]) == 1:
            return "<mo>∈</mo>"
        return f"<mtext>{escape(text)}</mtext>"

    @staticmethod
    def plain(token: Token) -> bool:
        """Whether a token is a word and no name."""
        kind, text = token
        return kind == "word" and len(text) > 1 and text[0] != "d" and text not in {*GREEK, *SIGNS, *FUNCTIONS}

    def scripted(self, base: str) -> str:
        """The element with the scripts, primes, star and tilde that follow it."""
        below, above, name = "", "", base.startswith("<mi>")
        while True:
            kind, text = self.peek()
            if kind == "number" and text.isdigit() and name and not (below or above):  # e0, s1: an index; chi2: squared
                self.take()
                below, above = ("", f"<mn>{text}</mn>") if "χ" in base else (f"<mn>{text}</mn>", "")
            elif kind == "script":
                self.take()
                below, above = (below + self.script(), above) if text == "_" else (below, above + self.script())
            elif kind == "prime":
                self.take()
                above += f"<mo>{'′' * len(text)}</mo>"
            elif (kind, text) == ("operator", "*") and name:
                self.take()
                above += "<mo>∗</mo>"
            elif (kind, text) == ("operator", "~") and name:
                self.take()
                base = f"<mover>{base}<mo>~</mo></mover>"
            else:
                break
        base = base if base.count("</m") == 1 or base.startswith(("<mover", "<msqrt")) else f"<mrow>{base}</mrow>"
        if below and above:
            return f"<msubsup>{base}<mrow>{below}</mrow><mrow>{above}</mrow></msubsup>"
        if below or above:
            return f"<{'msub' if below else 'msup'}>{base}<mrow>{below or above}</mrow></{'msub' if below else 'msup'}>"
        return base

    def read(self, bracketed: bool = False) -> Iterator[tuple[str, str]]:
        """(`word`, `break`, `pause`, `space` or ``, element), up to the closing bracket of this level or the end."""
        depth = 0
        while self.at < len(self.tokens):
            kind, text = self.peek()
            if bracketed and depth == 0 and (kind, text) == ("operator", ")"):
                return
            if kind == "space":
                before, after = self.peek(-1), self.peek(1)
                apart = after[0] in ("word", "number") and (before[0] != "operator" or before[1] in ")]")
                self.take()
                yield ("space" if depth == 0 else "", '<mspace width="0.22em"/>' if apart else "")
                continue
            if kind == "operator":
                depth += (text in "([{") - (text in ")]}")
                if depth < 0:
                    raise self.error("a bracket too many")
            element = self.scripted(self.atom())
            word = element.startswith("<mtext>")
            name = "word" if word else "break" if text in BREAKS else "pause" if text in PAUSES else ""
            yield name if depth == 0 else "", element
        if depth or bracketed:
            raise self.error("a bracket is not closed")


def mathml(formula: str) -> Markup:
    """The formula as `math` elements in a line, with its words between them.

    Raises:
      ValueError: for a text in which brackets do not match, or with a sign that the notation does not have.
    """
    out, now = [], ""

    def end() -> None:
        nonlocal now
        bare = re.fullmatch(r"(<mn>[^<]*</mn>|<mo>[,:;.]</mo>)*", now)
        out.append(re.sub("<[^>]*>", "", now) if bare else f"<math>{now}</math>")
        now = ""

    pairs = list(_Reader(" ".join(formula.split())).read())
    for i, (kind, element) in enumerate(pairs):
        if kind == "word":
            end()
            out.append(element.removeprefix("<mtext>").removesuffix("</mtext>"))
        elif kind == "space" and (pairs[i - 1][0] in ("word", "pause") or pairs[i + 1][0] in ("word", "break")):
            end()
            out.append(" ")
        elif kind == "break" and not now and out:
            now = element.replace("<mo>", '<mo form="infix">')
        else:
            now += element
    end()
    return Markup("".join(out))


def line(text: str) -> Markup:
    """A line in which formulas stand unmarked among words; as it is where it cannot be read as such.

    What stands between backticks is a word in code font.
    """
    try:
        found = mathml(text)
    except ValueError:
        found = escape(text)
    return Markup(re.sub(r"`([^`<]*)`", r"<code>\1</code>", str(found)))
