"""The programs of others: peers in a virtual environment of their own, nginx and wrk from apt."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {"vllm-router": "vllm-router", "litellm": "litellm[proxy]"}
FROM_APT = ("nginx", "wrk")
INSTALLS_WITHIN_S = 1200
FOLDER = "LAMPLIGHTER_PEERS"  # the environment variable that names another folder


class Environment:
    """Where the programs are, and which versions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, name: str) -> str:
        for folder in (self._folder / "bin", Path("/usr/sbin")):
            if (folder / name).exists():
                return str(folder / name)
        found = shutil.which(name)
        if found is None:
            raise SystemExit(f"peers: {name} is not installed")
        return found

    def version(self, name: str) -> str:
        """As the program, or the environment of the peers, tells it."""
        if name in PACKAGES:
            ask = f"import importlib.metadata as m; print(m.version({name!r}))"
            return _said([str(self._folder / "bin" / "python"), "-c", ask])
        said = _said([self.program(name), "-v"])
        found = re.search(r"\d+\.\d+(\.\d+)*", said)
        return found[0] if found else "?"


def prepared(peers: Sequence[str]) -> Environment:
    """Everything that `peers` need, installed if it is not there yet."""
    for program in FROM_APT:
        wanted = program == "wrk" or program in peers
        if wanted and not (shutil.which(program) or Path(f"/usr/sbin/{program}").exists()):
            _from_apt(program)
    folder = _folder()
    missing = [
        package
        for name, package in PACKAGES.items()
        if name in peers and not (folder / "bin" / name).exists()
    ]
    if missing:
        _tell(f"installing {' and '.join(missing)} into {folder}, once; this takes minutes")
        if not (folder / "bin" / "python").exists():
            venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq"]
        done = subprocess.run([*pip, *missing], timeout=INSTALLS_WITHIN_S)
        if done.returncode:
            raise SystemExit(f"peers: pip could not install {' '.join(missing)}, see above")
    return Environment(folder)


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER) or cache / "lamplighter-tests" / "peers")


def _from_apt(program: str) -> None:
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (root and shutil.which("sudo") is None):
        raise SystemExit(
            f"peers: {program} is missing and there is no apt-get that this user may run; "
            f"install {program} from your distribution, or leave it out with --peers and --only"
        )
    _tell(f"installing {program} with apt-get")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    subprocess.run([*root, *quiet, "update"], timeout=INSTALLS_WITHIN_S)
    install = [*root, *quiet, "install", "-y", "--no-install-recommends", program]
    if subprocess.run(install, timeout=INSTALLS_WITHIN_S).returncode:
        raise SystemExit(f"peers: apt-get could not install {program}, see above")


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip()


def _tell(text: str) -> None:
    print(f"peers: {text}", file=sys.stderr, flush=True)
