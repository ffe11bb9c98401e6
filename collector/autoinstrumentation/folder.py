"""Makes the folder that the auto-instrumentation image carries, for the Python that runs this.

    python folder.py /autoinstrumentation /src    # the checkout is in /src

The Operator's init container copies the folder into the app's pod and puts two of its places on PYTHONPATH:
``opentelemetry/instrumentation/auto_instrumentation``, where our ``sitecustomize.py`` is, and its root. What an app
imports from us lies one deeper, in a folder named by what compiled modules are made for
(``cpython-311-x86_64-linux-gnu``): run by several Pythons into one target, it makes an image that serves them all, and
one that is not among them is told so.
"""

from __future__ import annotations

import compileall
import json
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, distributions
from pathlib import Path
from py_compile import PycInvalidationMode

HERE = Path(__file__).resolve().parent
STARTED = Path("opentelemetry", "instrumentation", "auto_instrumentation")
API = ("opentelemetry-api", "opentelemetry-semantic-conventions")


def make(target: Path, project: Path) -> Path:
    """Install the project and the instrumentors into ``target``; the folder of this Python."""
    from packaging.requirements import Requirement

    folder = target / EXTENSION_SUFFIXES[0].split(".")[1]
    requirements, constraints = HERE / "requirements.txt", project / "constraints.txt"
    uv = ["uv", "pip", "install", "-q", "--python", sys.executable, "--target", str(folder)]
    subprocess.run([*uv, "-c", str(constraints), "-r", str(requirements), str(project)], check=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)  # scripts that name the interpreter of this image

    made = {name_of(found): found for found in distributions(path=[str(folder)])}
    needs = []
    for name, found in sorted(made.items()):
        for text in found.requires or ():
            need = Requirement(text)
            if need.specifier and (need.marker is None or need.marker.evaluate({"extra": ""})):
                needs.append((name, found.version, normal(need.name), str(need.specifier)))
    for name in API:
        copy(made[name], folder / "api")
        needs.append((name, made[name].version, name, ""))
    (folder / "needs.json").write_text(json.dumps(needs, indent=0))

    start = target / STARTED
    start.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "sitecustomize.py", start)
    # Copying changes the times of files, and Python would compile anew, at each start, what is older than its source.
    compileall.compile_dir(str(folder), quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    return folder


def copy(found: Distribution, target: Path) -> None:
    """All files of a distribution, once more in a folder of its own."""
    for file in found.files or ():
        if ".." not in file.parts:
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found.locate_file(file), place)


def name_of(found: Distribution) -> str:
    """As the index has it."""
    return normal(found.metadata["Name"])


def normal(name: str) -> str:
    """``Flask_Cors`` and ``flask-cors`` are one name."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2])))
