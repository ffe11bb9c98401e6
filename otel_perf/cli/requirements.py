"""Which installed packages do not fit together, and the pip line that mends it: a part of ``otel-perf doctor``.

It imports nothing that may itself be too old: with such packages it is all that the doctor can still do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    Problem = tuple[str, str]  # and what mends it

OWN: Final = "otel-perf"
_PIP: Final = "pip install "
_OF_LIBRARY: Final = "instruments"  # upstream's extras for the library that a package instruments


def conflicts(*, libraries: bool = True) -> tuple[list[Problem], list[Problem]]:
    """What needs mending, and what is worth knowing: extras of ours for which a package is too old or too new.

    Without ``libraries``, no instrumentors of another version of theirs: these only do nothing.
    """
    try:
        import packaging.requirements  # noqa: F401
    except ImportError:
        return [("packaging is not installed, so that versions cannot be compared", "pip install packaging")], []
    needs = list(_needs())
    own = {need.name: need.wanted for need in needs if need.package == OWN and not need.extra}
    broken = [need for need in needs if need.trouble and not need.extra]
    unfit = {need.name for need in broken if need.package == OWN}
    idle = [need for need in needs if libraries and need.trouble and need.extra == _OF_LIBRARY]
    wrong = [(need.problem, need.remedy) for need in idle]
    if unfit:
        # All in one line: what pins one of these exactly would be the next conflict.
        tied = {need.package for need in needs if not need.extra and (need.name in unfit or need.trouble)} - {OWN}
        line = " ".join(f"'{own[name]}'" if name in own else name for name in sorted(unfit | tied))
        wrong = [(need.problem, f"pip install --upgrade {line}") for need in broken] + wrong
    else:
        wrong = [(need.problem, need.remedy) for need in broken] + wrong
    others = {need.extra for need in needs} - {"", _OF_LIBRARY}
    return wrong, [(need.problem, need.remedy) for need in needs if need.trouble and need.extra in others]


class _Need:
    """What one installed package needs of another."""

    def __init__(self, package: str, version: str, requirement: Any, extra: str) -> None:
        self.package = package
        self.name = requirement.name.lower().replace("_", "-")
        self.extra = extra
        self.wanted = f"{self.name}{requirement.specifier}"
        self._version = version
        self._found: str | None = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            self._found = metadata.version(requirement.name)
        fits = self._found is not None and requirement.specifier.contains(self._found, prereleases=True)
        self.trouble = not fits and (self._found is not None or not extra)  # who wants no extra need not have it

    @property
    def problem(self) -> str:
        found = "it is not installed" if self._found is None else f"{self._found} is installed"
        asks = f"{self.package} {self._version}"
        if self.extra and self.extra != _OF_LIBRARY:
            asks = f"{self.package}[{self.extra}] {self._version}"
        why = ": it does not instrument it" if self.extra == _OF_LIBRARY else ""
        return f"{asks} needs {self.wanted}, and {found}{why}"

    @property
    def remedy(self) -> str:
        if self.extra:
            return f"pip install '{self.wanted}'"
        return f"pip install --upgrade {self.package} '{self.wanted}'"


def _needs() -> Iterator[_Need]:
    from packaging.requirements import InvalidRequirement, Requirement

    seen = set()
    for package in metadata.distributions():
        name = (package.metadata["Name"] or "").lower().replace("_", "-")
        if name in seen or not (name == OWN or name.startswith("opentelemetry-")):
            continue
        seen.add(name)
        for raw in package.requires or ():
            with contextlib.suppress(InvalidRequirement):
                requirement = Requirement(raw)
                extra = _extra(requirement, raw, own=name == OWN)
                if extra is not None:
                    yield _Need(name, package.version, requirement, extra)


def fits(library: str) -> bool:
    """Whether the version that is installed is one of those that ``library``, a requirement, allows; if it is known."""
    from packaging.requirements import InvalidRequirement, Requirement

    with contextlib.suppress(InvalidRequirement, metadata.PackageNotFoundError):
        requirement = Requirement(library)
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    return True


def installed_here(remedy: str) -> str:
    """``remedy`` with a ``pip install`` that installs here, where uv or Poetry made an environment without pip.

    There ``pip`` is another environment's, or the system's.
    """
    if not remedy.startswith(_PIP) or importlib.util.find_spec("pip") is not None:
        return remedy
    python = shlex.quote(sys.executable)
    if shutil.which("uv"):
        return f"uv pip install --python {python} {remedy.removeprefix(_PIP)}"
    return f"{python} -m ensurepip && {python} -m pip install {remedy.removeprefix(_PIP)}"


def needed_by(library: str) -> set[str]:
    """The installed packages that need ``library`` whatever extras of theirs are chosen."""
    found = set()
    for package in metadata.distributions():
        for raw in package.requires or ():
            needed, _, marker = raw.partition(";")
            if "extra ==" not in marker and _name(re.split(r"[^\w.-]", needed.strip(), maxsplit=1)[0]) == library:
                found.add(_name(package.metadata["Name"] or ""))
    return found


def _name(written: str) -> str:
    return re.sub(r"[-_.]+", "-", written).lower()


def _extra(requirement: Any, raw: str, *, own: bool) -> str | None:
    """The extra that a requirement is of, empty if it is of none; ``None`` where it does not matter here."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    marker = raw.partition(";")[2]
    if _OF_LIBRARY in marker and not own:
        return _OF_LIBRARY
    extra = marker.rpartition("extra ==")[2].strip(" '\"")
    return extra if own and extra and requirement.marker.evaluate({"extra": extra}) else None


def show(command: str, error: Exception, *, as_json: bool) -> str:
    """What a command that cannot even be imported has to say; empty where versions are not at fault."""
    wrong = [(problem, installed_here(remedy)) for problem, remedy in conflicts(libraries=False)[0]]
    if not wrong:
        return ""
    if as_json:
        import json

        findings = [{"problem": problem, "remedy": remedy} for problem, remedy in wrong]
        return json.dumps({"findings": findings, "hints": []}, indent=2)
    lines = [f"otel-perf {command}: does not work with the packages that are installed: {error!r}{_where(error)}", ""]
    lines.append(f"To mend: {len(wrong)}")
    return "\n".join([*lines, *listed(wrong, "✗")])


def _where(error: Exception) -> str:
    """The line that raised it: it may have nothing to do with versions after all."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def listed(problems: list[Problem], mark: str) -> list[str]:
    """Problems as lines, each with its remedy, which those that have the same share."""
    lines = []
    for place, (problem, remedy) in enumerate(problems):
        lines.append(f"  {mark} {problem}")
        if all(other != remedy for _, other in problems[place + 1 : place + 2]):
            lines.append(f"    {remedy}")
    return lines
