"""Finds secrets within texts: messages, URLs, headers, tracebacks, SQL.

:func:`suspicious` is the gate that nearly every text fails, in about a microsecond; only what passes it meets the
expressions. All of these are linear in the text: what repeats is possessive or bounded, and begins where a word begins.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from otel_perf.logs import secret_keys, secret_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARK: Final = "[redacted]"

# Lower case, every digit a 0, one kind of quote and one sign between name and value: what is looked for has one form.
_ONE_FORM: Final = bytes.maketrans(b'ABCDEFGHIJKLMNOPQRSTUVWXYZ123456789":<', b"abcdefghijklmnopqrstuvwxyz000000000'==")


def suspicious(text: str) -> bool:
    """Whether ``text`` may hold a secret. About 1 µs for a usual message; grows with its length."""
    # Bytes are translated ten times as fast as texts, and searched a tenth as fast.
    try:
        form = text.encode().translate(_ONE_FORM).decode("latin-1")
    except UnicodeEncodeError:  # lone surrogates
        form = text.encode("utf-8", "replace").translate(_ONE_FORM).decode("latin-1")
    hyphen = "-" in form  # one sign is looked for in half the time that two are
    if ("=" in form or "'" in form or (hyphen and ("--" in form or " -" in form or form[0] == "-"))) and (
        "pass" in form or "token" in form or "secret" in form or "key" in form or "auth" in form
        or "cookie" in form or "sess" in form or "pwd" in form or "cred" in form or "jwt" in form
        or "bearer" in form or "card" in form or "cvv" in form or "cvc" in form or "otp" in form
        or "ssn" in form or "sig=" in form or "signature=" in form
        or ("pin" in form and _pin().search(form) is not None)
        or ("code" in form and (
            "security" in form or "verification" in form or "access" in form or "mfa" in form or "recovery" in form
            or "backup" in form
        ))
        or "-u " in form or "-u'" in form or "--user" in form
        or ("=//" in form and ("@" in form or "hooks.slack" in form))
    ):  # fmt: skip
        return True
    if "0000" in form and (
        "0000000000000" in form or "0000 0000 0" in form or "0000-0000-0" in form
        or "0000 000000 0" in form or "0000-000000-0" in form
    ):  # fmt: skip
        return True
    if "_" in form and (
        "ghp_" in form or "gho_" in form or "ghs_" in form or "ghu_" in form or "ghr_" in form or "_pat_" in form
        or "k_live_" in form or "k_test_" in form or "whsec_" in form or "npm_" in form or "hf_" in form
        or "dop_v0_" in form
    ):  # fmt: skip
        return True
    if hyphen and (
        "xox" in form or "sk-" in form or "glpat-" in form or "xapp-" in form or "pypi-" in form
        or "gocspx-" in form
    ):  # fmt: skip
        return True
    return (
        ("j" in form and "eyj" in form) or ("z" in form and "aiza" in form) or "acca" in form
        or ("ia" in form and ("akia" in form or "asia" in form or "abia" in form))
        or "earer " in form or "asic " in form or "dentified " in form
        or ("." in form and ("ya00." in form or "sg." in form or "hvs." in form))
    )  # fmt: skip


@cache
def _pin() -> re.Pattern[str]:
    return re.compile(r"pin(?![a-z])|pincode")  # no shipping, and no typing


def scrub(text: str, is_secret: Callable[[str], bool]) -> str:
    """``text`` with every secret replaced by the mark; ``is_secret`` judges the names of values."""
    if "-----BEGIN" in text:
        text = _pem().sub(MARK, text)
    if "://" in text:
        text = _hooks().sub(MARK, _userinfo().sub(_without_password, text))
    text = _tokens().sub(MARK, text)
    text = _schemes().sub(_without_credentials, text)
    text = _without(text, _named_values(text, is_secret))
    text = secret_statements.without_values(text, is_secret, MARK)
    return _without(text, _cards(text))


def _without(text: str, spans: Iterator[tuple[int, int]]) -> str:
    pieces, done = [], 0
    for start, end in spans:
        pieces += [text[done:start], MARK]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text


# --- secrets that are known by their form --------------------------------------------------------------


@cache
def _pem() -> re.Pattern[str]:
    return re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"[^-]*+(?:-(?!----END)[^-]*+)*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
    )


@cache
def _tokens() -> re.Pattern[str]:
    return re.compile(
        r"(?<![A-Za-z0-9_-])(?:"
        r"eyJ[A-Za-z0-9_-]{6,}+\.[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+){0,3}"  # JWT, JWE
        r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"
        r"|gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_\w{20,}+|glpat-[\w-]{16,}+"
        r"|xox[a-z]-[\w-]{8,}+|xapp-[\w-]{8,}+"
        r"|(?:sk|rk)_(?:live|test)_\w{8,}+|whsec_[\w+/=]{16,}+"
        r"|AIza[\w-]{30,}+|ya29\.[\w.-]{16,}+|GOCSPX-[\w-]{16,}+"
        r"|npm_[A-Za-z0-9]{30,}+|pypi-AgE[\w-]{16,}+|hf_[A-Za-z0-9]{30,}+|dop_v1_[0-9a-f]{32,}+"
        r"|SG\.[\w-]{16,}+\.[\w-]{16,}+|hvs\.[\w-]{20,}+"
        r"|sk-(?=[A-Za-z_-]{0,64}[0-9])[\w-]{20,}+"
        r")"
    )


@cache
def _hooks() -> re.Pattern[str]:
    return re.compile(r"(?<=://)hooks\.slack\.com/services/[\w/-]++")


_NO_PASSWORDS: Final = frozenset({"", "x", "x-oauth-basic", "api_token"})  # what stands where a token is the name


@cache
def _userinfo() -> re.Pattern[str]:
    return re.compile(r"""(://)(?:([^\s/:@"'<>]{0,256}):([^\s/"'<>]*)@|([^\s/:@"'<>]{20,}+)@)""")


def _without_password(found: re.Match[str]) -> str:
    if found[4] is not None:
        return f"://{MARK}@"
    port, _, rest = found[3].partition("?")
    if rest and port.isdigit():  # http://host:80?to=bob@example.org
        return found[0]
    if len(found[2]) >= 20 and found[3].lower() in _NO_PASSWORDS:  # the name is the secret
        return f"://{MARK}:{MARK}@"
    return f"://{found[2]}:{MARK}@"


@cache
def _schemes() -> re.Pattern[str]:
    return re.compile(r"(?<![\w-])(Bearer|Basic)([ ]+)([\w.~+/=-]{6,}+)", re.IGNORECASE)


def _without_credentials(found: re.Match[str]) -> str:
    scheme, value = found[1].lower(), found[3]
    if scheme == "basic":
        try:
            given = b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except (binascii.Error, ValueError):
            given = False
    else:
        letters = value.strip(".").translate({ord("-"): None, ord("/"): None})
        given = not (letters.isalpha() and (letters.islower() or letters.istitle())) or len(letters) >= 24
    return f"{found[1]}{found[2]}{MARK}" if given else found[0]


@cache
def _digits() -> re.Pattern[str]:
    # Looked for ahead, so that digits before a card's are no part of what is found.
    return re.compile(
        r"(?<![\w.-])(?=(\d{13,19}|\d{4}([ -])\d{4}\2\d{4}\2\d{1,7}|3[47]\d{2}([ -])\d{6}\3\d{5})(?![\w-]|\.\d))",
        re.ASCII,
    )


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for found in _digits().finditer(text):
        digits = found[1].replace(" ", "").replace("-", "")
        if _is_card(digits):
            yield found.span(1)


def _is_card(digits: str) -> bool:
    first, size = int(digits[:4]), len(digits)
    known = (
        (digits[0] == "4" and size in {13, 16, 19})
        or ((5100 <= first <= 5599 or 2221 <= first <= 2720) and size == 16)
        or (digits[:2] in {"34", "37"} and size == 15)
        or ((digits[:2] in {"62", "65"} or first == 6011 or 6440 <= first <= 6499) and size >= 16)
        or (3528 <= first <= 3589 and size >= 16)
        or ((3000 <= first <= 3059 or digits[:2] in {"36", "38"}) and size == 14)
    )
    if not known:
        return False
    total = sum(int(digit) for digit in digits[-1::-2])
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return total % 10 == 0


# --- values with a name --------------------------------------------------------------------------------

_FIRST: Final = (
    "api|access|secret|private|client|auth|refresh|session|security|encryption|signing|credit|card|pass|verification"
)


@cache
def _names() -> re.Pattern[str]:
    return re.compile(
        r"(?<!\S)(?:-u|--user)[ =][\"']?[^\s:\"']{1,64}:(?=[^\s/])"  # curl -u name:value
        r"|['\"](?:-u|--user)['\"],[ ]?['\"][^\s:\"']{1,64}:(?=[^\s/])"  # the same as a list of arguments
        r"|(?<![\w.-])(?:name|key|field|header)\\{0,3}[\"']?[ ]?[=:][ ]?\\{0,3}[\"'](?P<field>[\w.-]{1,64})"
        r"\\{0,3}[\"'],?[ ]{1,2}\\{0,3}[\"']?value\\{0,3}[\"']?[ ]?[=:][ ]?(?=\\{0,3}[\"'])"  # name="token" value="…"
        rf"|(?<![\w.-])(?P<name>(?:(?:{_FIRST})[ ])?+[\w.-]++)"
        r"(?P<between>\\{0,3}[\"'`]?\]?[ \t]{0,4}(?:=>|:=|={1,2}|:(?!:))[ \t]{0,4}"  # name: value, "name"='value'
        r"|\)=\((?=[^)]))"  # Key (token)=(value) of PostgreSQL
        r"|(?<![\w.-])(?P<flag>--?[A-Za-z][\w-]++)(?:[ ]{1,2}|[\"'],[ ]{0,2})(?=[^\s-])"  # --token value
        r"|\([bu]?[\"'](?P<first>[\w.-]++)[\"'],[ ]?(?=[bu]?[\"'])"  # ("token", "value")
        r"|<(?P<tag>[\w.-]++)>(?=[^<\s])"  # <token>value</token>
        r"|(?<![\w.-])PASSWORD[ ]{1,4}FOR[ ]{1,4}[^=\n]{1,200}=[ ]{0,4}"  # SET PASSWORD FOR somebody = 'value'
        r"|(?<![\w.\"'`-])(?:PASSWORD|PASSWD|PASSPHRASE|PASSCODE)(?:[ ]{1,2}\(?|\()[ ]?(?=[en]?[\"'])"  # PASSWORD '…'
        r"|(?<![\w.-])(?P<by>IDENTIFIED)[ ]{1,4}(?:WITH[ ]{1,4}\S{1,64}[ ]{1,4})?(?:BY|AS)[ ]{1,4}"
        r"(?:PASSWORD[ ]{1,4})?"  # IDENTIFIED BY 'value'
        r"|[?&;](?:sig|signature|x-amz-signature|x-goog-signature|key)=(?=[^\s&]{12})",
        re.IGNORECASE,
    )


@cache
def _values() -> re.Pattern[str]:
    return re.compile(
        r"(?P<quoted>[bruenxBRUENX]{0,2}(?:"  # as in Python and in SQL
        r"\"(?:[^\"\\]++|\\.)*+(?:\"|\\?$)"
        r"|'(?:[^'\\]++|\\.|'')*+(?:'|\\?$)"
        r"|\\{1,7}[\"'][^\"'\\]*+(?:\\{1,7}[\"'])?))"
        r"|(?P<open>[\[{(])"
        # A comma or semicolon ends a value where another name or the rest of a sentence follows.
        # A quote is part of one where a word goes on behind it.
        r"|(?P<bare>(?:[^\s&,;\"'<>\\]++|[\"'](?=\w)|\\(?![\"'n])|[,;](?![\s\"']|$|[\w. -]{1,40}[=:]))++)",
        re.DOTALL,
    )


@cache
def _header() -> re.Pattern[str]:
    return re.compile(
        r"(?:Digest|AWS4-HMAC-SHA256|Hawk|OAuth)[ ][^\r\n\"']*+"
        r"|(?:Bearer|Basic|Token|ApiKey|Negotiate|NTLM)[ ]+[^\s,;\"'&]++",
        re.IGNORECASE,
    )


@cache
def _any_header() -> re.Pattern[str]:
    # Of any scheme: what is known of none is the secret if it is no word of a sentence.
    return re.compile(r"[A-Z][\w-]{1,31}[ ]+(?=[^\s,;\"'&]*[\d_=+/:-]|[^\s,;\"'&]{16})[^\s,;\"'&]++")


@cache
def _cookie() -> re.Pattern[str]:
    return re.compile(r"[^\s;,=\"']++=[^\s;\"']*+(?:;[ ]?[^\s;,=\"']++(?:=[^;\"'\r\n]*?(?=;|\s|$|[\"']))?)*+")


# What stands for a value, or says something of it: "password: required", "token=None", "password = %s".
_NO_VALUES: Final = secret_keys.words_of(
    "none null nil true false undefined nan required missing invalid expired empty unset unknown ok yes no on off"
    " incorrect wrong accepted rejected changed updated reset must should is are was not too cannot can error failed"
    " denied unexpected expected the a an and or to for with in via of if when option flag argument"
)


@cache
def _placeholders() -> re.Pattern[str]:
    return re.compile(
        r"\?|%s|%\(\w{1,64}\)s|\$\d{1,3}|:\w{1,64}|\$?\{{1,2}[\w. ]{0,64}\}{1,2}|<[^>]{0,64}>|\*{2,64}|\.{3}|…"
    )


def _named_values(text: str, is_secret: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    done = 0
    for found in _names().finditer(text):
        place = found.end()
        if place < done:
            continue
        name = found["name"] or found["field"] or found["flag"] or found["first"] or found["tag"]
        if name is not None and not is_secret(name):
            continue
        by, between = found["by"], found["between"]
        if by is not None and not by.isupper() and text[place : place + 1] not in "\"'":
            continue  # "an object identified by its name"
        if between == ")=(":
            end = text.find(")", place)
            span: tuple[int, int] | None = (place, end if end >= 0 else len(text))
        else:
            prose = between == ": " and name is not None and name.replace(" ", "").isalpha()
            span = _value(text, place, secret_keys.split(name or ""), prose=prose)
        if span is not None:
            yield span
            done = span[1]


def _of_header(text: str, place: int, words: list[str]) -> re.Match[str] | None:
    """What a header of this name holds at ``place``, of several words it may be."""
    found = _cookie().match(text, place) if "cookie" in words or "cookies" in words else None
    if found is None and ("authorization" in words or "auth" in words):
        found = _header().match(text, place)
    if found is None and "authorization" in words:
        found = _any_header().match(text, place)
    return found


def _value(text: str, place: int, words: list[str], *, prose: bool) -> tuple[int, int] | None:
    """Where the value that begins at ``place`` stands, without its quotes; ``None`` if it is no secret."""
    found = _of_header(text, place, words)
    if found:
        return found.span()
    found = _values().match(text, place)
    if found is None:
        return None
    prose = prose and not any(word.startswith("pass") or word == "pwd" for word in words)
    if found["open"]:
        return None if prose else (place, _closing(text, place))
    start, end = found.span()
    if found["bare"]:
        return _bare(text, start, end, prose=prose)
    start += 1 + next(index for index, sign in enumerate(found[0]) if sign in "\"'")
    if end > start and text[end - 1] in "\"'":
        end -= 1
    while end > start and text[end - 1] == "\\":
        end -= 1
    return (start, end) if _says(text[start:end]) else None


def _bare(text: str, start: int, end: int, *, prose: bool) -> tuple[int, int] | None:
    """A value without quotes."""
    if text[end - 1] == "(" and text[end : end + 1] in {'"', "'"}:  # PASSWORD('value')
        return start, _closing(text, end - 1)
    while end > start and text[end - 1] in ")]}.":
        end -= 1
    value = text[start:end]
    if not _says(value) or value.rstrip("!?").lower() in _NO_VALUES or _is_code(text, start, value):
        return None
    goes_on = text[end : end + 1] == " " and text[end + 1 : end + 2].isalpha()
    if prose and goes_on and value.isalpha() and value.islower() and len(value) < 12:
        return None  # "invalid token: unexpected end of file"
    return start, end


@cache
def _expression() -> re.Pattern[str]:
    return re.compile(r"[A-Za-z_][\w.]*+[(\[]?")


def _is_code(text: str, start: int, value: str) -> bool:
    """Whether ``value`` is a name or a call in a line of source that a traceback shows: ``password=self.password``."""
    line = text.rfind("\n", 0, start) + 1
    if not line or not text.startswith("    ", line):
        return False
    if text.count('"', line, start) % 2 or text.count("'", line, start) % 2:
        return False  # within a text: raise ValueError("token=…")
    before = text.rfind("\n", 0, line - 1) + 1
    return text.startswith('  File "', before) and _expression().fullmatch(value) is not None


def _says(value: str) -> bool:
    return bool(value) and value != MARK and not _placeholders().fullmatch(value)


def _closing(text: str, place: int, longest: int = 65_536) -> int:
    """Behind the bracket that closes the one at ``place``; the end of what is looked at if none does."""
    depth, quote, index = 0, "", place
    end = min(len(text), place + longest)
    while index < end:
        sign = text[index]
        if quote:
            if sign == "\\":
                index += 1
            elif sign == quote:
                quote = ""
        elif sign in "\"'":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in ")}]":
            depth -= 1
            if depth == 0:
                return index + 1
        index += 1
    return min(index, len(text))
