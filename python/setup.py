"""Builds libselfenc with the Go toolchain, as a part of the package.

Its Go sources are those of the repository that this directory lies in, or, in an sdist, what the sdist has of them in
go/. See README.md, "Install".
"""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import ExecError, SetupError

HERE = Path(__file__).resolve().parent
COMMAND = "cmd/libselfenc"
LIBRARY = "self_encryption/libselfenc.so"


def module() -> Path:
    """The directory of the Go module."""
    for root in HERE / "go", HERE.parent:
        if (root / COMMAND / "main.go").is_file():
            return root
    raise SetupError(f"{COMMAND}: the Go sources are missing: build in a checkout of the repository, or from its sdist")


def go(*arguments: str) -> str:
    """Runs the go command ($GO) in the module, and returns what it prints."""
    root, program = module(), os.environ.get("GO", "go")
    version = next(line.split()[1] for line in (root / "go.mod").read_text().splitlines() if line.startswith("go "))
    if shutil.which(program) is None:
        raise ExecError(f"{program}: not found: building this package needs Go {version} or newer, and gcc (https://go.dev/dl)")
    result = subprocess.run([program, *arguments], cwd=root, env={**os.environ, "CGO_ENABLED": "1"}, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise ExecError(f"go {arguments[0]} failed; it needs Go {version} or newer, gcc, and a Go module proxy for what is not in its cache")
    return result.stdout


class BuildPy(build_py):
    """Builds the library beside the Python files."""

    def run(self) -> None:
        super().run()
        target = HERE if self.editable_mode else Path(self.build_lib).resolve()
        # Neither paths of this machine nor the state of a checkout belong into it.
        go("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-buildmode=c-shared", "-o", str(target / LIBRARY), f"./{COMMAND}")
        (target / LIBRARY).with_suffix(".h").unlink()  # cgo's


class Binary(Distribution):
    """A distribution with machine code in it, though setuptools has not compiled it."""

    def has_ext_modules(self) -> bool:
        return True


class BdistWheel(bdist_wheel):
    """The library is of a platform, but of no version of Python: ctypes loads it."""

    def get_tag(self) -> "tuple[str, str, str]":
        return ("py3", "none", super().get_tag()[2])


class Sdist(sdist):
    """Takes the Go sources along that the library is made of; what they import of others comes from the module proxy."""

    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        super().make_release_tree(base_dir, files)
        root, target = module(), Path(base_dir) / "go"
        listed = go("list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", f"./{COMMAND}")
        sources = [root / "go.mod", root / "go.sum"]
        for directory in listed.split("\n"):
            if directory:
                sources += [f for f in Path(directory).iterdir() if f.suffix in (".go", ".h") and not f.name.endswith("_test.go")]
        for source in sources:
            destination = target / source.relative_to(root)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, destination)


setup(distclass=Binary, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel, "sdist": Sdist})
