"""Tells from its name whether a field holds a secret.

A name is taken apart at its case and punctuation (``X-Api-Key``, ``dbPassword``, ``AWS_SECRET_ACCESS_KEY``) and its
words are looked up: so ``author``, ``tokenize``, ``secretary`` and ``keyboard`` are none, and neither is what is
only said of a secret, like ``token_count``, ``password_changed_at`` or ``has_password``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

LONGEST: Final = 200  # characters of a name that are looked at


def words_of(words: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(words.split())


_ALONE: Final = words_of(
    "password passwords passwd pwd passphrase passcode secret secrets token apikey apikeys authorization cookie cookies"
    " credential credentials jwt bearer cvv cvc otp totp pin ssn privatekey accesskey secretkey authkey sessionid"
    " sessid creditcard cardnumber"
)
# Names written in one word, like PGPASSWORD, csrftoken and PHPSESSID.
_ENDINGS: Final = (
    "password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "secretkey", "accesskey", "privatekey",
    "sessionid", "sessid",
)  # fmt: skip
_KEYS: Final = words_of(
    "api access secret private signing encryption decryption ssh master account shared auth hmac aes rsa jwt webhook"
    " deploy consumer subscription session storage"
)
_PAIRS: Final = frozenset(
    {(first, last) for first in _KEYS for last in ("key", "keys")}
    | {(first, "tokens") for first in words_of("access refresh auth api bearer session csrf oauth reset device")}
    | {("session", "id"), ("pass", "phrase"), ("pass", "word"), ("card", "number"), ("credit", "card")}
    | {(first, "code") for first in words_of("security verification auth authorization access mfa otp recovery backup")}
    | {(first, "codes") for first in words_of("recovery backup mfa")}
)
_LAST: Final = frozenset({"pass", "auth"})  # secrets as the last word of a name: db_pass, proxy_auth

# Behind or before a secret's name these say that it is something about the secret.
_ABOUT: Final = words_of(
    "count counts counter used usage length len size limit limits max min total number name names type types kind"
    " expiry expires expire expired expiration age ttl date time at on created updated changed modified reset rotated"
    " rotation valid validity invalid strength policy required enabled disabled status state version url uri path file"
    " filename dir folder algorithm algo scope scopes source provider per budget remaining ok present error errors"
    " attempts failures retries consent accepted banner domain samesite secure httponly field fields label format"
    " manager store backend endpoint issuer rule rules seconds ms minutes hint method class module handler parser"
    " stream index position rate id ids ref arn cost costs price free"
)
_ASKED: Final = words_of("no has is are num max min total needs requires require use uses show forgot can should allow")

# Of mappings that say what they hold: variables of a container, headers of a recorded request, settings.
LABELS: Final = frozenset({"name", "Name", "key", "Key"})
VALUES: Final = frozenset({"value", "Value"})


@cache
def _words() -> re.Pattern[str]:
    return re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


def split(name: str) -> list[str]:
    """The words of a name, in lower case."""
    return [word.lower() for word in _words().findall(name[:LONGEST])]


def is_secret(words: list[str]) -> bool:
    """Whether a field whose name has these words holds a secret."""
    if not words or words[0] in _ASKED:
        return False
    after = 0  # words up to and with the last one that names the secret
    for place, word in enumerate(words):
        last = place == len(words) - 1
        in_two_words = place > 0 and (words[place - 1], word) in _PAIRS
        if word in _ALONE or word.endswith(_ENDINGS) or (last and word in _LAST) or in_two_words:
            after = place + 1
    return after > 0 and _ABOUT.isdisjoint(words[after:])


def holds(words: list[str], wanted: list[str]) -> bool:
    """Whether ``wanted`` stand in ``words``, one behind the other."""
    size = len(wanted)
    return any(words[place : place + size] == wanted for place in range(len(words) - size + 1))
