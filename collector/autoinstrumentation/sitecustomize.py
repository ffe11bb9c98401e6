"""The first of ours that runs in an app the OpenTelemetry Operator has injected us into: starts us, or leaves us out.

The Operator puts this file's folder, and the root of what it copied, before everything else on the app's PYTHONPATH, so
that each package here would replace the app's own of that name: an app with other versions of OpenTelemetry, protobuf
or urllib3 breaks (opentelemetry-operator#1885, #2409). So here the app comes first. What was copied goes to the end of
``sys.path``, where it gives only what the app lacks. If something that we need is there in another version, nothing
of ours is importable afterwards, the app runs as it would without, and one line on standard error says why.

Standard library only, and nothing that an old Python cannot read: any Python may meet this file.
"""

import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.abspath(__file__)).rsplit(os.sep, 3)[0]
HERE = os.path.dirname(os.path.abspath(__file__))
OURS = (ROOT, HERE)
# An app that only calls these, old as they may be, can call newer ones: the API is stable. Libraries bring them.
REPLACEABLE = ("opentelemetry-api", "opentelemetry-semantic-conventions")
MOST = 6  # conflicts that are named


class LeftOutError(Exception):
    """Why the app runs without us."""


def tag():
    """What compiled modules have to be made for: Python's version, the processor and the C library."""
    from importlib.machinery import EXTENSION_SUFFIXES

    return EXTENSION_SUFFIXES[0].split(".")[1]


def installed(path):
    """Name and version of the distributions in the folders of ``path``; the first of a name is the one imported."""
    found = {}
    for folder in path:
        try:
            entries = os.listdir(folder or os.curdir)
        except OSError:
            continue
        for entry in entries:
            match = re.match(r"(.+?)-([^-]+)(-py[0-9.]+)?\.(dist|egg)-info$", entry)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match.group(1)).lower(), match.group(2))
    return found


def conflicts(folder, needs, theirs):
    """What the app has itself, in a version that does not do for ours in ``folder``: name to what is needed."""
    wanted = [need for need in needs if need[2] in theirs and need[0] not in theirs]
    if not wanted:
        return {}
    before = set(sys.modules)
    sys.path.append(folder)
    try:
        from packaging.specifiers import SpecifierSet

        found = {}
        for _, _, name, specifier in wanted:
            if not SpecifierSet(specifier).contains(theirs[name], prereleases=True):
                found.setdefault(name, specifier)
        return found
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:  # the app imports its own
            if name.partition(".")[0] == "packaging":
                del sys.modules[name]


def choose():
    """The folders to be searched before and after the app's own, for this Python and beside these packages."""
    folder = os.path.join(ROOT, tag())
    if not os.path.isdir(folder):
        made = ", ".join(sorted(name for name in os.listdir(ROOT) if name.startswith("cpython-")))
        raise LeftOutError(f"it is made for {made}, and this is {tag()}")
    with open(os.path.join(folder, "needs.json")) as file:
        needs = json.load(file)
    theirs, before = installed(sys.path), []
    found = conflicts(folder, needs, theirs)
    if found and not any(name.startswith("opentelemetry-") for name in set(theirs) - set(REPLACEABLE)):
        rest = {name: version for name, version in theirs.items() if name not in REPLACEABLE}
        ours = {by: version for by, version, _, _ in needs}
        if all(release(theirs[name]) <= release(ours[name]) for name in set(theirs) - set(rest)):
            found, before = conflicts(folder, needs, rest), [os.path.join(folder, "api")]
    if found:
        named = [f"{name} {theirs[name]} ({needed} is needed)" for name, needed in sorted(found.items())]
        more = f" and {len(named) - MOST} more" if len(named) > MOST else ""
        raise LeftOutError(f"it has {', '.join(named[:MOST])}{more}")
    return before, [folder]


def release(version):
    """The numbers of a version, to compare."""
    return [int(number) for number in re.findall(r"\d+", version)]


def start():
    """Run upstream's initialisation with ours on the path. Programs that it starts have to do without."""
    path = os.environ.get("PYTHONPATH")
    if path is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join(part for part in path.split(os.pathsep) if part != HERE)
    try:
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()
    finally:
        if path is not None:
            os.environ["PYTHONPATH"] = path


def run_the_apps_own():
    """The ``sitecustomize`` that this one hides, if there is one."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None and spec.origin != os.path.abspath(__file__):
        from importlib.util import module_from_spec

        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


def main():
    """Start us, or say why not."""
    sys.path[:] = [part for part in sys.path if os.path.abspath(part) not in OURS]
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true":
        try:
            before, after = choose()
            sys.path[:0], sys.path[len(sys.path) :] = before, after
            start()
        except LeftOutError as reason:
            say(f"left out, and the app runs without it: {reason}")
        except Exception as error:  # an app that is not instrumented beats one that does not run
            say(f"cannot start, and the app runs without it: {error!r}")
    run_the_apps_own()


def say(text):
    """One line, if there is anything to write to."""
    try:
        sys.stderr.write(f"otel-perf: {text}\n")
    except (AttributeError, OSError, ValueError):
        pass


main()
